"""Small files of every format, and the records that must come of them."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

Row = dict[str, Any]
HUMAN = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}
SYSTEM = {"role": "system", "content": "s"}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": "é"}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


class Case(NamedTuple):
    """Files {name: text}, their format, its task, the columns that are read, the records."""

    files: dict[str, str]
    format: str
    columns: tuple[str, ...]
    records: list[Row]


def jsonl(*rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def said(*texts: str) -> list[Row]:
    """Turns of user and assistant."""
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


def case(name: str, text: str, form: str, columns: str, *records: Any) -> Case:
    """One file; a record is a dict, or the columns' values in order."""
    names = tuple(columns.split())
    rows = [r if isinstance(r, dict) else dict(zip(names, r, strict=True)) for r in records]
    return Case({name: text}, form, names, rows)


def chat(name: str, text: str, form: str, *messages: list[Row]) -> Case:
    return case(name, text, form, "messages", *({"messages": one} for one in messages))


def bio(text: str) -> tuple[list[str], list[str]]:
    """Tokens and tags of "EU/B-ORG rejects/O"."""
    pairs = [word.rpartition("/") for word in text.split()]
    return [token for token, _, _ in pairs], [tag for _, _, tag in pairs]


ALPACA = {"instruction": "Add.", "input": "1 2", "output": "3"}
HISTORY = {"instruction": "c", "output": "d", "system": "s", "history": [["a", "b"]]}
SHAREGPT = {
    "conversations": [
        {"from": "system", "value": "s"},
        {"from": "human", "value": "1+é?"},
        {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1, "b": "é"}}'},
        {"from": "observation", "value": "2"},
        {"from": "gpt", "value": "2!", "weight": 0},
    ],
    "tools": '[{"name": "add", "parameters": {"type": "object"}}]',
}
SHAREGPT_READ = {
    "messages": [
        SYSTEM,
        {"role": "user", "content": "1+é?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "2!", "weight": 0},
    ],
    "tools": [TOOL],
}
UM = {"type": "text", "text": "um"}
YES = {"type": "text", "text": " yes"}
CALLED = {"name": "add", "arguments": '{"a": 1, "b": "é"}'}
OPENAI = {
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]},
        {
            "role": "assistant",
            "content": [{**UM, "train": False}, {**YES, "train": True}],
            "weight": 1,
        },
        {"role": "user", "content": "Add."},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": CALLED}],
        },
        {"role": "tool", "content": "2", "tool_call_id": "c1"},
        {"role": "assistant", "content": "2", "train": False},
    ],
    "tools": [TOOL],
}
OPENAI_READ = {
    "messages": [
        HUMAN,
        {
            "role": "assistant",
            "content": [{**UM, "train": False}, {**YES, "train": True}],
            "weight": 1,
        },
        {"role": "user", "content": "Add."},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", **CALL}]},
        {"role": "tool", "content": "2", "tool_call_id": "c1"},
        {"role": "assistant", "content": "2", "train": False},
    ],
    "tools": [TOOL],
}
QUESTIONS = "id title context question answers"
PARIS = "Ünser Paris 🙂 is here"


def squad(*questions: Row, context: str = PARIS) -> Row:
    return {"title": "T", "paragraphs": [{"context": context, "qas": list(questions)}]}


def question(name: str, *answers: tuple[str, int], **more: Any) -> Row:
    found = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": name, "question": "Where?", "answers": found, **more}


def spans(*answers: tuple[str, int]) -> Row:
    return {"text": [a for a, _ in answers], "answer_start": [b for _, b in answers]}


WHERE = {"id": "1", "title": "T", "context": PARIS, "question": "Where?"}
NER = [bio("EU/B-ORG rejects/O"), bio("Peter/B-PER Blackburn/I-PER")]
CONLLU = (
    "# text = vámonos al mar\n"
    "1-2\tvámonos\t_\t_\t_\t_\t_\t_\t_\t_\n"
    "1\tvamos\tir\tVERB\tV\t_\t0\troot\t_\t_\n"
    "1.1\tx\t_\tX\t_\t_\t_\t_\t_\t_\n"
    "2\tnos\tnosotros\tPRON\tP\t_\t1\tobj\t_\t_\n"
    "\n"
    "1\tmar\tmar\tNOUN\tN\t_\t0\troot\t_\t_\n"
)
LF_HUMAN = {"from": "human", "value": "Hi"}
LF_PAIR = {
    "conversations": [LF_HUMAN],
    "chosen": {"from": "gpt", "value": "Hello"},
    "rejected": {"from": "gpt", "value": "Go"},
}
GO = {"role": "assistant", "content": "Go"}
PAIR = "prompt chosen rejected"
KTO = "prompt completion label"

CASES = {
    # chats
    "alpaca": chat("a.jsonl", jsonl(ALPACA), "alpaca", said("Add.\n1 2", "3")),
    "alpaca with history": chat(
        "a.json", json.dumps([HISTORY], indent=1), "alpaca", [SYSTEM, *said("a", "b", "c", "d")]
    ),
    "alpaca in a table with a mark and CRLF": chat(
        "a.csv",
        '\ufeffinstruction,input,output\r\n"Add,\r\nplease",1 2,3\r\n',
        "alpaca",
        said("Add,\r\nplease\n1 2", "3"),
    ),
    "dolly": chat(
        "d.jsonl",
        jsonl(
            {"instruction": "Add.", "context": "1 2", "response": "3", "category": "sums"},
            {"instruction": "Say.", "context": "", "response": "Hi", "category": "other"},
        ),
        "alpaca",
        said("Add.\n1 2", "3"),
        said("Say.", "Hi"),
    ),
    "alpaca as prompts": case(
        "a.jsonl",
        jsonl({"instruction": "Hi", "input": "", "output": "Hello"}),
        "alpaca",
        "prompt completion",
        ([HUMAN], [ANSWER]),
    ),
    "sharegpt": case("s.jsonl", jsonl(SHAREGPT), "sharegpt", "messages tools", SHAREGPT_READ),
    "openai": case(
        "o.jsonl",
        jsonl(OPENAI, {"messages": said("Hi", "Hello")}),
        "openai",
        "messages tools",
        OPENAI_READ,
        {"messages": said("Hi", "Hello"), "tools": None},
    ),
    "openai in one object a file": chat(
        "o.json", json.dumps({"messages": said("Hi", "Hello")}), "openai", said("Hi", "Hello")
    ),
    "json lines without their ending": chat(
        "o.txt", jsonl({"messages": said("Hi", "Hello")}), "openai", said("Hi", "Hello")
    ),
    # prompts
    "prompt and completion": case(
        "p.jsonl",
        jsonl({"prompt": "The sky is", "completion": " blue."}, {"prompt": "2", "completion": "3"}),
        "prompt_completion",
        "prompt completion",
        ("The sky is", " blue."),
        ("2", "3"),
    ),
    "prompts of messages": case(
        "p.jsonl",
        jsonl({"prompt": [HUMAN], "completion": [ANSWER]}),
        "prompt_completion",
        "prompt completion",
        ([HUMAN], [ANSWER]),
    ),
    "prompts as a chat": chat(
        "p.jsonl",
        jsonl({"question": "Hi", "answer": "Hello"}),
        "prompt_completion",
        said("Hi", "Hello"),
    ),
    # preferences
    "preference": case(
        "d.jsonl",
        jsonl({"prompt": "Hi", "chosen": "Hello", "rejected": "Go"}),
        "preference",
        PAIR,
        ("Hi", "Hello", "Go"),
    ),
    "preference without a prompt": case(
        "d.jsonl",
        jsonl({"chosen": "The sky is blue.", "rejected": "The sky is green."}),
        "preference",
        PAIR,
        ("The sky is", " blue.", " green."),
    ),
    "preference of messages without a prompt": case(
        "d.jsonl",
        jsonl({"prompt": "Hi", "chosen": [HUMAN, ANSWER], "rejected": [HUMAN, GO]}),
        "preference",
        PAIR,
        ([HUMAN], [ANSWER], [GO]),
    ),
    "preference of messages": case(
        "d.jsonl",
        jsonl({"prompt": [HUMAN], "chosen": [ANSWER], "rejected": [GO]}),
        "preference",
        PAIR,
        ([HUMAN], [ANSWER], [GO]),
    ),
    "preference of LLaMA-Factory": case(
        "d.jsonl", jsonl(LF_PAIR), "preference", PAIR, ([HUMAN], [ANSWER], [GO])
    ),
    "preference of LLaMA-Factory's alpaca": case(
        "d.jsonl",
        jsonl({"instruction": "Add.", "input": "1 2", "chosen": "3", "rejected": "4"}),
        "preference",
        PAIR,
        ("Add.\n1 2", "3", "4"),
    ),
    "preference of argilla": case(
        "d.jsonl",
        jsonl({"instruction": "Hi", "chosen_response": "Hello", "rejected_response": "Go"}),
        "preference",
        PAIR,
        ("Hi", "Hello", "Go"),
    ),
    "preference as kto": case(
        "d.jsonl",
        jsonl({"prompt": "Hi", "chosen": "Hello", "rejected": "Go"}),
        "preference",
        KTO,
        ("Hi", "Hello", True),
        ("Hi", "Go", False),
    ),
    "kto": case(
        "k.jsonl",
        jsonl({"prompt": "Hi", "completion": "Go", "label": False}),
        "kto",
        KTO,
        ("Hi", "Go", False),
    ),
    "kto_tag of alpaca": case(
        "k.jsonl",
        jsonl({**ALPACA, "kto_tag": True}),
        "kto_tag",
        KTO,
        (said("Add.\n1 2"), said("", "3")[1:], True),
    ),
    "kto_tag of messages": case(
        "k.jsonl",
        jsonl({"messages": [HUMAN, GO], "kto_tag": False}),
        "kto_tag",
        KTO,
        ([HUMAN], [GO], False),
    ),
    "kto_tag of sharegpt": case(
        "k.jsonl",
        jsonl({"conversations": [LF_HUMAN, LF_PAIR["rejected"]], "kto_tag": False}),
        "kto_tag",
        KTO,
        ([HUMAN], [GO], False),
    ),
    # classes
    "csv": case(
        "c.csv",
        "id,review,stars\n1,fine,5\n2,bad,1\n",
        "classification",
        "text label",
        ("fine", "5"),
        ("bad", "1"),
    ),
    "tsv": case(
        "c.tsv",
        "sentence\tlabel\nit 's fine\t1\nbad\t0\n",
        "classification",
        "text label",
        ("it 's fine", "1"),
        ("bad", "0"),
    ),
    "csv with semicolons": case(
        "c.csv",
        "text;label\na, b;x\nc;y\n",
        "classification",
        "text label",
        ("a, b", "x"),
        ("c", "y"),
    ),
    "jsonl of classes": case(
        "c.jsonl",
        jsonl({"text": "a", "label": ["x", "y"]}, {"text": "b", "label": []}),
        "classification",
        "text label",
        ("a", ["x", "y"]),
        ("b", []),
    ),
    "glue": case(
        "g.tsv",
        "index\tsentence1\tsentence2\tlabel\n0\ta b\tc\tentailment\n",
        "pairs",
        "text text_b label",
        ("a b", "c", "entailment"),
    ),
    "glue's questions": case(
        "g.jsonl",
        jsonl({"question": "a", "sentence": "b", "label": 1, "idx": 0}),
        "pairs",
        "text text_b label",
        ("a", "b", 1),
    ),
    "glue's own file of MRPC": case(
        "m.tsv",
        'Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tHe said "a b\t c\n',
        "pairs",
        "text text_b label",
        ('He said "a b', " c", "1"),
    ),
    "glue's own file of QQP": case(
        "q.tsv",
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n0\t1\t2\ta\tb c\t1\n",
        "pairs",
        "text text_b label",
        ("a", "b c", "1"),
    ),
    "glue's similarity": case(
        "g.csv",
        "premise,hypothesis,score\na,b,2.5\n",
        "pairs",
        "text text_b label",
        ("a", "b", "2.5"),
    ),
    "fasttext": case(
        "f.txt",
        "__label__good A fine film\r\n\r\n__label__a __label__b two\r\n",
        "fasttext",
        "text label",
        ("A fine film", "good"),
        ("two", ["a", "b"]),
    ),
    "folders": Case(
        {"pos/1.txt": "fine\nfilm\n", "neg/1.txt": "bad"},
        "folders",
        ("text", "label"),
        [{"text": "bad", "label": "neg"}, {"text": "fine\nfilm\n", "label": "pos"}],
    ),
    # text
    "text": case("t.txt", "Once\n\nupon", "text", "text", ("Once\n\nupon",)),
    "markdown": case("t.md", "# Once\n", "text", "text", ("# Once",)),
    "column of text": case(
        "t.jsonl", jsonl({"text": "a\nb", "id": 1}), "text_column", "text", ("a\nb",)
    ),
    # questions
    "squad 1": case(
        "q.json",
        json.dumps({"version": "1.1", "data": [squad(question("1", ("Paris", 6)))]}),
        "squad",
        QUESTIONS,
        {**WHERE, "answers": spans(("Paris", 6))},
    ),
    "squad 2": case(
        "q.json",
        json.dumps(
            {
                "data": [
                    squad(
                        question("1", is_impossible=True, plausible_answers=[]),
                        question("2", ("here", 17), is_impossible=False),
                    )
                ],
                "version": "v2.0",
            },
            indent=1,
        ),
        "squad",
        QUESTIONS,
        {**WHERE, "answers": spans()},
        {**WHERE, "id": "2", "answers": spans(("here", 17))},
    ),
    "cmrc": case(
        "q.json",
        json.dumps(
            [squad({"id": 7, "question": "谁?", "answers": ["北京", "京"]}, context="我在北京")]
        ),
        "squad",
        QUESTIONS,
        ("7", "T", "我在北京", "谁?", spans(("北京", 2), ("京", 3))),
    ),
    "cmrc's first release": case(
        "q.json",
        json.dumps(
            [
                {
                    "context_id": "DEV_0",
                    "context_text": "我在北京",
                    "qas": [
                        {"query_id": "DEV_0_QUERY_0", "query_text": "谁?", "answers": ["我"]},
                        {
                            "query_id": "DEV_0_QUERY_1",
                            "query_text": "在哪里?",
                            "answers": ["北京", "在北京", "北京"],
                        },
                    ],
                    "title": "T",
                }
            ],
            ensure_ascii=False,
        ),
        "cmrc",
        QUESTIONS,
        ("DEV_0_QUERY_0", "T", "我在北京", "谁?", spans(("我", 0))),
        (
            "DEV_0_QUERY_1",
            "T",
            "我在北京",
            "在哪里?",
            spans(("北京", 2), ("在北京", 1), ("北京", 2)),
        ),
    ),
    "squad flat": case(
        "q.jsonl",
        jsonl({**WHERE, "answers": spans(("Paris", 6))}),
        "squad_flat",
        QUESTIONS,
        {**WHERE, "answers": spans(("Paris", 6))},
    ),
    # pairs of texts
    "translation": case(
        "m.jsonl",
        jsonl({"translation": {"en": "a", "de": "b"}}, {"translation": {"de": "d", "en": "c"}}),
        "translation",
        "source target",
        ("a", "b"),
        ("c", "d"),
    ),
    "two columns": case(
        "m.tsv",
        "Good day\tGuten Tag\nBye\tTschüss\n",
        "tsv_pairs",
        "source target",
        ("Good day", "Guten Tag"),
        ("Bye", "Tschüss"),
    ),
    "named columns": case("m.csv", "src,tgt\na,b\n", "parallel", "source target", ("a", "b")),
    "columns of languages": case(
        "m.tsv", "en\tde\na\tb\n", "parallel", "source target", ("a", "b")
    ),
    "paired files": Case(
        {"x.en": "a\nb\n", "x.de": "c\nd\n"},
        "paired_files",
        ("source", "target"),
        [{"source": "a", "target": "c"}, {"source": "b", "target": "d"}],
    ),
    "summaries": case(
        "s.jsonl",
        jsonl({"article": "long", "highlights": "short", "id": "1"}),
        "summary",
        "source target",
        ("long", "short"),
    ),
    "summaries of documents": case(
        "s.csv", "document,summary\nlong,short\n", "summary", "source target", ("long", "short")
    ),
    # tags
    "conll": case(
        "n.conll",
        "-DOCSTART- -X- O O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\n"
        "Peter NNP B-NP B-PER\nBlackburn NNP I-NP I-PER\n",
        "conll",
        "tokens tags",
        *NER,
    ),
    "conll with tabs and IOB1": case(
        "n.txt",
        "EU\tI-ORG\r\nrejects\tO\r\n\r\nPeter\tI-PER\r\nBlackburn\tI-PER\r\nU2\tB-PER\r\n",
        "conll",
        "tokens tags",
        NER[0],
        bio("Peter/B-PER Blackburn/I-PER U2/B-PER"),
    ),
    "conll in BIOES": case(
        "n.bio",
        "EU S-ORG\nrejects O\n\nPeter B-PER\nBlackburn E-PER\nU2 I-PER\n",
        "conll",
        "tokens tags",
        NER[0],
        bio("Peter/B-PER Blackburn/I-PER U2/B-PER"),
    ),
    "conll of parts of speech": case(
        "n.txt",
        "The DT\ndog NN\n\nThe DT\nman NN\n\nThe DT\ncat NN\n",
        "conll",
        "tokens tags",
        bio("The/DT dog/NN"),
        bio("The/DT man/NN"),
        bio("The/DT cat/NN"),
    ),
    "conll-u": case(
        "n.conllu", CONLLU, "conllu", "tokens tags", bio("vamos/VERB nos/PRON"), bio("mar/NOUN")
    ),
    "tokens": case(
        "n.jsonl",
        jsonl({"id": "0", "tokens": NER[0][0], "ner_tags": ["I-ORG", "O"]}),
        "tokens",
        "tokens tags",
        NER[0],
    ),
    "tokens in a table": case(
        "n.csv",
        'words,tags\n"[""EU"", ""rejects""]","[""B-ORG"", ""O""]"\n',
        "tokens",
        "tokens tags",
        NER[0],
    ),
    "brown": case(
        "b.txt",
        "The/at jury/nn 1/2/cd\n\n``/`` Yes/rb\n",
        "brown",
        "tokens tags",
        (["The", "jury", "1/2"], ["at", "nn", "cd"]),
        (["``", "Yes"], ["``", "rb"]),
    ),
    "columns as they are": case(
        "o.csv", "opinion,mark\na,1\nb,2\n", "columns", "opinion mark", ("a", "1"), ("b", "2")
    ),
    "a prompt and what its reward needs": case(
        "o.jsonl", jsonl({"prompt": "2+2", "truth": 4}), "columns", "prompt truth", ("2+2", 4)
    ),
    "classes of other columns": case(
        "o.csv", "id,review,stars\n7,a,1\n", "classification", "review id", ("a", "7")
    ),
    "a chat of a file for KTO": chat(
        "k.jsonl",
        jsonl({"conversations": [LF_HUMAN, LF_PAIR["rejected"]], "kto_tag": False}),
        "sharegpt",
        [HUMAN, GO],
    ),
}
