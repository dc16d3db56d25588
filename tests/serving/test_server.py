"""Requests over HTTP: formats, errors, and that requests which come together are one batch."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

from jaxlm.core.errors import UserError
from jaxlm.generate import Text
from jaxlm.run import SampleConfig
from jaxlm.serving.app import application
from jaxlm.serving.batches import Batches
from tests.serving.client import ask, one


class Echo:
    """A run that answers what it was asked, and notes its calls."""

    path, step, params = Path("runs/echo"), 7, None
    config = SimpleNamespace(sample=SampleConfig(max_tokens=9))

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def predictor(self, batch_size: int) -> Any:
        return self.predict

    def predict(self, records: Sequence[Any]) -> list[Any]:
        self.calls.append(list(records))
        if "bad" in records:
            raise UserError("record: is bad; give a good one")
        if "broken" in records:
            raise RuntimeError("the model is broken")
        if "few" in records:
            return []
        return [{"label": str(record)} for record in records]

    def writer(self, sampling: Any, chat: bool) -> Any:
        def check(prompts: Sequence[str]) -> None:
            if "bad" in prompts:
                raise UserError("prompt: is bad; give a good one")

        def written(params: None, prompts: Sequence[str], *, seed: int, **_: Any) -> list[Text]:
            self.calls.append((list(prompts), sampling, chat, seed))
            return [Text(f"{prompt}!", 0.0, len(prompt) == 1) for prompt in prompts]

        def streamed(params: None, prompts: Sequence[str], on_text: Any, *, seed: int) -> Any:
            for number, prompt in enumerate(prompts):
                on_text(number, prompt)
            if "broken" in prompts:
                raise RuntimeError("the model is broken")
            for number in range(len(prompts)):
                on_text(number, "!")
            return written(params, prompts, seed=seed)

        return SimpleNamespace(check=check, with_scores=written, streamed=streamed)


def predict(*records: Any) -> tuple[str, str, Any]:
    return "POST", "/predict", {"records": list(records)}


def test_requests_of_the_same_moment_are_one_batch_in_order() -> None:
    run: Any = Echo()
    found = ask(application(run), *(predict(n, -n) for n in range(5)))
    assert found == [
        (200, {"predictions": [{"label": str(n)}, {"label": str(-n)}]}) for n in range(5)
    ]
    assert len(run.calls) < 5 and sorted(sum(run.calls, [])) == sorted(
        [*range(5), *range(0, -5, -1)]
    )


def test_no_batch_is_larger_than_its_size_except_a_request_that_is() -> None:
    run: Any = Echo()
    app = application(run, batch_size=3)
    found = ask(app, *(predict(n) for n in range(7)), predict(*"abcde"))
    assert all(status == 200 for status, _ in found)
    assert max(len(call) for call in run.calls if "a" not in call) <= 3
    assert list("abcde") in run.calls


def test_a_wrong_record_spoils_no_other_request() -> None:
    run: Any = Echo()
    found = ask(application(run), predict("a"), predict("bad"), predict("b"))
    assert [status for status, _ in found] == [200, 400, 200]
    assert found[1][1]["error"]["message"] == "record: is bad; give a good one"


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/predict", {"records": []}, "records is empty; give at least one"),
        ("/predict", {"record": ["a"]}, "record: unknown key; did you mean records?"),
        ("/predict", b"{", "the body is not JSON"),
        ("/predict", [1], "expected a mapping"),
        ("/v1/completions", {"prompt": "a", "stream": 1}, "stream: expected true or false"),
        ("/v1/completions", {"prompt": "a", "temperature": -1}, "-1.0 is out of range"),
        ("/v1/completions", {"prompt": "a", "n": 2}, "n: unknown key"),
        ("/v1/chat/completions", {"messages": []}, "messages is empty"),
    ],
)
def test_a_wrong_request_is_one_line(path: str, body: Any, says: str) -> None:
    run: Any = Echo()
    ((status, found),) = ask(application(run), ("POST", path, body))
    message = found["error"]["message"]
    assert status == 400 and says in message and "\n" not in message and not run.calls


def test_texts_are_in_the_format_of_openai() -> None:
    run: Any = Echo()
    talk = [{"role": "user", "content": "Hi"}]
    found = ask(
        application(run),
        ("POST", "/v1/completions", {"prompt": ["a", "b"], "max_tokens": 3, "temperature": 0}),
        ("POST", "/v1/chat/completions", {"messages": talk, "model": "any", "seed": 4}),
        ("GET", "/v1/models", None),
        ("GET", "/health", None),
    )
    bodies = [body for _, body in found]
    assert [status for status, _ in found] == [200] * 4
    assert bodies[0]["object"] == "text_completion" and bodies[0]["model"] == "echo"
    assert [(c["index"], c["text"]) for c in bodies[0]["choices"]] == [(0, "a!"), (1, "b!")]
    answer = bodies[1]["choices"][0]["message"]
    assert answer == {"role": "assistant", "content": json.dumps(talk) + "!"}
    assert bodies[2]["data"][0]["id"] == "echo" and bodies[3] == {
        "status": "ok",
        "run": "echo",
        "step": 7,
    }
    reasons = [[choice["finish_reason"] for choice in body["choices"]] for body in bodies[:2]]
    assert reasons == [["stop", "stop"], ["length"]]
    (_, greedy, chat, _), (_, drawn, talks, seed) = run.calls
    assert greedy.max_tokens == 3 and greedy.temperature == 0 and not chat
    assert drawn.max_tokens == 9 and talks and seed == 4


def events_of(answer: str) -> list[Any]:
    *events, end = answer.split("\n\n")
    assert end == "" and all(event.startswith("data: ") for event in events)
    return [event.removeprefix("data: ") for event in events]


def test_texts_are_sent_while_they_are_written() -> None:
    run: Any = Echo()
    talk = [{"role": "user", "content": "Hi"}]
    asked = {"prompt": ["a", "bb", "c"], "stream": True}
    app = application(run, batch_size=2)
    (status, texts), (_, chat) = ask(
        app,
        ("POST", "/v1/completions", asked),
        ("POST", "/v1/chat/completions", {"messages": talk, "stream": True}),
    )
    *events, done = events_of(texts)
    assert status == 200 and done == "[DONE]"
    found = [json.loads(event) for event in events]
    assert len({event["id"] for event in found}) == 1
    assert {event["object"] for event in found} == {"text_completion"}
    choices = [choice for event in found for choice in event["choices"]]
    for n, text in enumerate(asked["prompt"]):
        own = [choice for choice in choices if choice["index"] == n]
        assert [choice["text"] for choice in own] == [text, "!", ""]
        ends = "stop" if len(text) == 1 else "length"
        assert [choice["finish_reason"] for choice in own] == [None, None, ends]
    *events, done = events_of(chat)
    choices = [json.loads(event)["choices"][0] for event in events]
    said = "".join(choice["delta"].get("content", "") for choice in choices)
    assert said == json.dumps(talk) + "!" and choices[-1]["finish_reason"] == "length"


def test_a_stream_that_fails_says_so_and_the_log_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run: Any = Echo()
    requests = [
        ("POST", "/v1/completions", {"prompt": p, "stream": True}) for p in ("bad", "broken")
    ]
    (status, found), (_, broken) = ask(application(run), *requests)
    assert status == 400 and found["error"]["message"] == "prompt: is bad; give a good one"
    first, last = events_of(broken)
    assert json.loads(first)["choices"][0]["text"] == "broken"
    error = json.loads(last)["error"]
    assert error["type"] == "server_error" and "its log says why" in error["message"]
    assert "the model is broken" not in broken and "the model is broken" in caplog.text


@pytest.mark.parametrize("stream", [True, False])
def test_no_text_is_written_where_a_later_prompt_is_wrong(stream: bool) -> None:
    run: Any = Echo()
    asked = {"prompt": ["a", "b", "bad"], "stream": stream}
    ((status, found),) = ask(application(run, batch_size=2), ("POST", "/v1/completions", asked))
    assert status == 400 and found["error"]["message"] == "prompt: is bad; give a good one"
    assert not run.calls


class Endless(Echo):
    """Writes texts of 300 pieces, each after a hundredth of a second, streamed or not."""

    pieces = 0

    def __init__(self) -> None:
        super().__init__()
        self.wanted: set[tuple[bool, ...]] = set()

    def writer(self, sampling: Any, chat: bool) -> Any:
        def streamed(params: None, prompts: Sequence[str], on_text: Any, *, seed: int) -> Any:
            self.calls.append(list(prompts))
            for _ in range(300):
                on_text(0, "a")
                self.pieces += 1
                time.sleep(0.01)
            return [Text("a" * 300, 0.0, False)]

        def written(params: None, prompts: Sequence[str], *, seed: int, wanted: Any) -> Any:
            self.calls.append(list(prompts))
            for _ in range(300):
                self.pieces += 1
                self.wanted.add(tuple(wanted()))
                if not any(wanted()):
                    break
                time.sleep(0.01)
            return [Text("a", 0.0, False) for _ in prompts]

        return SimpleNamespace(check=lambda prompts: None, streamed=streamed, with_scores=written)


def test_a_client_that_leaves_ends_its_stream() -> None:
    run: Any = Endless()
    app = application(run)

    async def clients() -> list[tuple[int, Any]]:
        def stream(prompt: str, leaving: asyncio.Event) -> Any:
            return one(app, "POST", "/v1/completions", {"prompt": prompt, "stream": True}, leaving)

        async with app.router.lifespan_context(app):
            leaving, gone = asyncio.Event(), asyncio.Event()
            gone.set()
            first = asyncio.create_task(stream("first", leaving))
            while not run.pieces:
                await asyncio.sleep(0.001)
            queued = await stream("queued", gone)
            leaving.set()
            return [await first, queued, await one(app, *predict("fine"))]

    (status, text), (without, nothing), after = asyncio.run(clients())
    assert status == 200 and text.startswith("data: ") and "[DONE]" not in text
    assert (without, nothing) == (499, "") and after == (200, {"predictions": [{"label": "fine"}]})
    assert run.calls == [["first"], ["fine"]] and run.pieces < 300


def test_a_client_that_leaves_ends_a_text_that_is_not_streamed() -> None:
    run: Any = Endless()
    app = application(run)

    async def clients() -> list[tuple[int, Any]]:
        leaving = {name: asyncio.Event() for name in ("first", "queued", "leaves", "stays")}

        async def until(holds: Callable[[], bool]) -> None:
            async with asyncio.timeout(60):
                while not holds():
                    await asyncio.sleep(0.001)

        async with app.router.lifespan_context(app):
            asked = []
            for name, event in leaving.items():
                body = {"prompt": name}
                asked.append(asyncio.create_task(one(app, "POST", "/v1/completions", body, event)))
                await until(lambda: bool(run.calls))
            await asyncio.sleep(0.01)
            leaving["queued"].set()
            leaving["first"].set()
            await until(lambda: len(run.calls) == 2)
            leaving["leaves"].set()
            await until(lambda: (False, True) in run.wanted)
            leaving["stays"].set()
            return [*await asyncio.gather(*asked), await one(app, *predict("fine"))]

    *left, after = asyncio.run(clients())
    assert left == [(499, "")] * 4 and after == (200, {"predictions": [{"label": "fine"}]})
    assert run.calls == [["first"], ["leaves", "stays"], ["fine"]] and run.pieces < 300


def test_requests_with_a_seed_share_no_batch_and_rows_are_powers_of_two() -> None:
    run: Any = Echo()
    asked = {"prompt": ["a", "b", "c"], "max_tokens": 3}
    seeded = [("POST", "/v1/completions", {**asked, "seed": 4})] * 2
    plain = [("POST", "/v1/completions", asked)] * 2
    found = ask(application(run, batch_size=8), *seeded, *plain)
    texts = [[choice["text"] for choice in body["choices"]] for _, body in found]
    assert texts == [["a!", "b!", "c!"]] * 4
    assert sorted(len(prompts) for prompts, *_ in run.calls) in ([4, 4, 4, 4], [4, 4, 8])
    assert [call[3] for call in run.calls].count(4) == 2


def test_many_prompts_are_several_batches_that_draw_differently() -> None:
    run: Any = Echo()
    prompts = [chr(97 + n) for n in range(7)]
    asked = {"prompt": prompts, "seed": 4}
    ((_, body),) = ask(application(run, batch_size=4), ("POST", "/v1/completions", asked))
    assert [choice["text"] for choice in body["choices"]] == [f"{p}!" for p in prompts]
    assert [len(call[0]) for call in run.calls] == [4, 4]
    assert len({call[3] for call in run.calls}) == 2


def test_no_failure_ends_the_thread_that_answers() -> None:
    run: Any = Echo()
    batches = Batches(size=4)
    for record, error in (("few", "0 answers to 1 items"), ("broken", "is broken")):
        with pytest.raises(RuntimeError, match=error):
            batches.ask(run.predict, [record]).result(timeout=10)
    assert batches.ask(run.predict, ["a"]).result(timeout=10) == [{"label": "a"}]
    batches.close()
    with pytest.raises(RuntimeError, match="closed"):
        batches.ask(run.predict, ["a"])


def test_a_batch_is_closed_when_all_are_answered() -> None:
    batches = Batches(size=4, wait=0.0)
    slow = lambda items: [time.sleep(0.01) or item for item in items]  # noqa: E731
    futures = [batches.ask(slow if n % 2 else Echo().predict, [n]) for n in range(9)]
    batches.close()
    assert all(future.done() and future.result() for future in futures)


def test_a_fault_of_the_model_is_an_error_of_the_server_which_lives_on() -> None:
    run: Any = Echo()
    server = uvicorn.Server(
        uvicorn.Config(application(run), port=0, log_level="critical", host="127.0.0.1")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]

    def post(record: str) -> Any:
        body = json.dumps({"records": [record]}).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/predict", body) as answer:
            return json.load(answer)

    try:
        with pytest.raises(urllib.error.HTTPError, match="500"):
            post("broken")
        assert post("fine") == {"predictions": [{"label": "fine"}]}
    finally:
        server.should_exit = True
        thread.join()
