"""Writes tests/fixtures/bow/golden.json: naive Bayes, logistic regression, tf-idf, hashing and a
linear support vector machine by scikit-learn.

    python tools/make_golden_bow.py                (needs scikit-learn)

The texts are of made-up words. scikit-learn counts them itself; the words alone are found by the
function that the tokenizer uses.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from sklearn._loss.loss import HalfMultinomialLoss
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.linear_model._linear_loss import LinearModelLoss
from sklearn.naive_bayes import BernoulliNB, MultinomialNB
from sklearn.svm import LinearSVC
from sklearn.utils import murmurhash3_32

from jaxlm.core.words import words_of

OUT = Path(__file__).parents[1] / "tests" / "fixtures" / "bow" / "golden.json"
WORDS = ["ab", "cd", "ef", "gh", "好", "看", "!", "it's"]
L2 = 0.03
C, BETA = 0.5, 0.25
BUCKETS = 7  # so few that n-grams collide
COUNTING: dict[str, Any] = {"tokenizer": words_of, "token_pattern": None, "ngram_range": (1, 2)}
TFIDF: dict[str, dict[str, Any]] = {
    "default": {},
    "sublinear": {"sublinear_tf": True},
    "binary": {"binary": True},
    "l1": {"norm": "l1"},
    "no_norm": {"norm": None},
}
HASHING: dict[str, dict[str, Any]] = {
    "signed": {"norm": None},
    "unsigned": {"norm": None, "alternate_sign": False},
    "signed_l2": {"norm": "l2"},
    "signed_binary": {"norm": None, "binary": True},
}


def main() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(3, 17, p=[0.5, 0.3, 0.2])
    texts = [made(rng, label) for label in labels]
    asked = [*(made(rng, label) for label in range(3)), "ab new words ef", "nothing of these"]
    counter = CountVectorizer(**COUNTING)
    counts = counter.fit_transform(texts)
    names = counter.get_feature_names_out().tolist()
    new = counter.transform(asked)
    found: dict[str, Any] = {"texts": texts, "labels": labels.tolist(), "asked": asked}
    found["names"] = names
    for name, model in {
        "multinomial": MultinomialNB(alpha=0.7),
        "multinomial_even": MultinomialNB(alpha=1.0, fit_prior=False),
        "bernoulli": BernoulliNB(alpha=0.7),
    }.items():
        model.fit(counts, labels)
        found[name] = {
            "alpha": model.alpha,
            "fit_prior": model.fit_prior,
            "log_probs": model.feature_log_prob_.tolist(),
            "joint": model.predict_joint_log_proba(new).tolist(),
        }
    kernel = rng.normal(0, 0.5, (3, len(names) + 1))
    loss = LinearModelLoss(base_loss=HalfMultinomialLoss(n_classes=3), fit_intercept=True)
    value, gradient = loss.loss_gradient(
        kernel, counts.toarray().astype(float), labels.astype(float), l2_reg_strength=L2
    )
    found["logistic"] = {"l2": L2, "loss": float(value)}
    found["logistic"] |= {"coefficients": kernel.tolist(), "gradient": gradient.tolist()}
    found["tfidf"] = {name: tfidf(texts, asked, names, own) for name, own in TFIDF.items()}
    joint = MultinomialNB().fit(TfidfVectorizer(**COUNTING).fit_transform(texts), labels)
    new_weights = TfidfVectorizer(**COUNTING).fit(texts).transform(asked)
    found["tfidf_bayes"] = joint.predict_joint_log_proba(new_weights).tolist()
    found["hashing"] = {"buckets": BUCKETS}
    for name, own in HASHING.items():
        hashed = HashingVectorizer(**COUNTING, n_features=BUCKETS, **own).transform(asked)
        found["hashing"][name] = hashed.toarray().tolist()
    found["murmur3"] = {gram: int(murmurhash3_32(gram)) for gram in [*names, "", "长一点的词"]}
    found["nbsvm"] = nbsvm((counts > 0).toarray(), labels, (new > 0).toarray())
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(found, ensure_ascii=False) + "\n")


def tfidf(
    texts: list[str], asked: list[str], names: list[str], settings: dict[str, Any]
) -> list[list[float]]:
    """The weights of the features in each text that is asked about."""
    vectorizer = TfidfVectorizer(**COUNTING, **settings).fit(texts)
    assert vectorizer.get_feature_names_out().tolist() == names
    return vectorizer.transform(asked).toarray().tolist()


def nbsvm(binary: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> dict[str, Any]:
    """A machine for each class against the others, over the log-count ratios."""
    found: dict[str, Any] = {"C": C, "beta": BETA, "objective": 0.0}
    columns: dict[str, list[Any]] = {"ratios": [], "weights": [], "biases": [], "scores": []}
    for label in range(3):
        y = np.where(labels == label, 1, -1)
        p, q = 1 + binary[y > 0].sum(0), 1 + binary[y < 0].sum(0)
        r = np.log((p / p.sum()) / (q / q.sum()))
        machine = LinearSVC(C=C, tol=1e-10, dual=False).fit(binary * r, y)
        w, b = machine.coef_[0], machine.intercept_[0]
        hinges = np.maximum(0, 1 - y * machine.decision_function(binary * r))
        # liblinear's objective; the bias is the weight of a constant feature
        found["objective"] += float((w @ w + b * b) / 2 + C * (hinges**2).sum())
        between = (1 - BETA) * np.abs(w).mean() + BETA * w
        columns["ratios"].append(r.tolist())
        columns["weights"].append(w.tolist())
        columns["biases"].append(float(b))
        columns["scores"].append((asked * r @ between + b).tolist())
    return {**found, **columns}


def made(rng: np.random.Generator, label: int) -> str:
    """A text of a class, which has words of its own more often."""
    likely = np.exp(-0.5 * ((np.arange(len(WORDS)) - 3 * label) / 2.0) ** 2) + 0.05
    size = int(rng.integers(3, 9))
    return " ".join(rng.choice(WORDS, size, p=likely / likely.sum()).tolist())


if __name__ == "__main__":
    main()
