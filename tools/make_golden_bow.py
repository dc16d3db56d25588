"""Writes tests/fixtures/bow/golden.json: naive Bayes and logistic regression by scikit-learn.

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
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model._linear_loss import LinearModelLoss
from sklearn.naive_bayes import BernoulliNB, MultinomialNB

from jaxlm.core.words import words_of

OUT = Path(__file__).parents[1] / "tests" / "fixtures" / "bow" / "golden.json"
WORDS = ["ab", "cd", "ef", "gh", "好", "看", "!", "it's"]
L2 = 0.03


def main() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(3, 17, p=[0.5, 0.3, 0.2])
    texts = [made(rng, label) for label in labels]
    asked = [*(made(rng, label) for label in range(3)), "ab new words ef", "nothing of these"]
    counter = CountVectorizer(tokenizer=words_of, token_pattern=None, ngram_range=(1, 2))
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
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(found, ensure_ascii=False) + "\n")


def made(rng: np.random.Generator, label: int) -> str:
    """A text of a class, which has words of its own more often."""
    likely = np.exp(-0.5 * ((np.arange(len(WORDS)) - 3 * label) / 2.0) ** 2) + 0.05
    size = int(rng.integers(3, 9))
    return " ".join(rng.choice(WORDS, size, p=likely / likely.sum()).tolist())


if __name__ == "__main__":
    main()
