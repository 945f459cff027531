"""Single requests put into one call of a local model: rows leave when they end or nobody listens, and disturb no other."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest
from episodes import begin

from visionthink import run_async, run_batch
from visionthink.data import synth
from visionthink.policies.batcher import Batcher
from visionthink.policies.local import LocalPolicy
from visionthink.types import Completion


@pytest.fixture
def batcher(tiny):
    batcher = Batcher(LocalPolicy(tiny, max_new_tokens=16))
    yield batcher
    batcher.close()


def histories(checkpoint, n):
    return [begin(e, (0.25, 1), checkpoint.protocol, budget=checkpoint.budget).history for e in synth.suite(n)]


async def heard(batcher, history, until=None):
    """Pieces of text, and the completion."""
    pieces = []
    async with contextlib.aclosing(batcher.speak(history, until)) as stream:
        async for piece in stream:
            pieces.append(piece)
    *texts, completion = pieces
    return texts, completion


async def queued(batcher, speaking):
    """Tasks of which the first is in a call of its own, and the others wait."""
    first, *others = speaking
    tasks = [asyncio.create_task(first)]
    async with asyncio.timeout(10):
        while not batcher.calls or batcher.waiting:
            await asyncio.sleep(0.01)
        tasks += [asyncio.create_task(each) for each in others]
        while batcher.waiting < len(others):
            await asyncio.sleep(0.01)
    return tasks


def held(policy: LocalPolicy, event: threading.Event):
    """The policy, whose next call waits for an event."""
    complete = policy.complete

    def waiting(*arguments):
        event.wait(10)
        policy.complete = complete
        return complete(*arguments)

    policy.complete = waiting


def test_those_that_wait_are_one_call_and_say_what_they_say_alone(tiny, batcher):
    asked = histories(tiny, 8)
    alone = LocalPolicy(tiny, max_new_tokens=16).complete(asked)
    go = threading.Event()
    held(batcher.policy, go)

    async def all_of_them():
        tasks = await queued(batcher, [heard(batcher, history) for history in asked])
        go.set()
        return await asyncio.gather(*tasks)

    for (texts, completion), expected in zip(asyncio.run(all_of_them()), alone, strict=True):
        assert (completion.text, completion.token_ids, completion.finish_reason) == (
            expected.text,
            expected.token_ids,
            "stop",
        )
        assert "".join(texts) == "".join(completion.token_texts) == completion.text
    assert batcher.calls == {1: 1, 7: 1}


def test_a_row_leaves_within_one_token_and_the_others_finish_unchanged(tiny, batcher):
    """The model is kept from ending, so that every row has all of its 16 tokens to say."""
    long = LocalPolicy(tiny, max_new_tokens=16).forbidding("<|im_end|>").forbidding("</answer>").forbidding("<tool_call>")
    asked = histories(tiny, 4)
    batcher.policy = long
    alone = long.complete(asked)
    assert {len(completion.token_ids) for completion in alone} == {16}
    rows: list[int] = []
    complete = long.complete

    def counting(histories, callbacks):
        wrapped = [lambda *said, i=i, take=take: rows.append(i) or take(*said) for i, take in enumerate(callbacks)]
        return complete(histories, wrapped)

    long.complete = counting
    go = threading.Event()
    held(long, go)

    async def leave(history):
        async with contextlib.aclosing(batcher.speak(history)) as stream:
            async for _ in stream:
                return  # after the first piece

    async def all_of_them():
        speaking = [heard(batcher, asked[0]), leave(asked[1]), *(heard(batcher, history) for history in asked[2:])]
        tasks = await queued(batcher, speaking)
        go.set()
        return await asyncio.gather(*tasks)

    found = [said[1] for said in asyncio.run(all_of_them()) if said]
    assert [c.token_ids for c in found] == [alone[i].token_ids for i in (0, 2, 3)]
    of_the_call = rows[16:]  # those of the first call were one row's 16
    assert of_the_call.count(1) == of_the_call.count(2) == 16 and 1 <= of_the_call.count(0) < 16


def test_a_reply_ends_where_its_listener_has_heard_enough(tiny, batcher):
    asked = histories(tiny, 2)
    texts, completion = asyncio.run(heard(batcher, asked[1], lambda text: "4" in text))
    assert (texts, completion.text, completion.finish_reason) == (["<answer>", "4"], "<answer>4", "stop")
    assert len(completion.token_ids) == 2


def test_lengths_may_differ_within_a_call_and_other_rules_wait(tiny, batcher):
    asked = histories(tiny, 3)
    go = threading.Event()
    held(batcher.policy, go)
    short = batcher.policy.sampling_as(max_new_tokens=1)
    warm = batcher.policy.sampling_as(temperature=1.0, seed=3)

    async def one(policy, history):
        async with contextlib.aclosing(batcher.speak(history, policy=policy)) as stream:
            return [piece async for piece in stream][-1]

    async def all_of_them():
        policies = [batcher.policy, short, batcher.policy, warm]
        tasks = await queued(batcher, [one(p, h) for p, h in zip(policies, [*asked, asked[0]], strict=True)])
        go.set()
        return await asyncio.gather(*tasks)

    found = asyncio.run(all_of_them())
    assert [c.finish_reason for c in found[:3]] == ["stop", "length", "stop"]
    assert batcher.calls == {1: 2, 2: 1}


def test_whole_episodes_are_those_of_a_batch(tiny, batcher):
    examples = synth.suite(6)
    fresh = lambda: [begin(e, (0.25, 1), tiny.protocol, budget=tiny.budget) for e in examples]  # noqa: E731
    expected = run_batch(fresh(), LocalPolicy(tiny, max_new_tokens=16))

    async def all_of_them():
        return await asyncio.gather(*(run_async(episode, batcher) for episode in fresh()))

    found = asyncio.run(all_of_them())
    assert [(t.answer, t.stop_reason, t.token_ids) for t in found] == [(t.answer, t.stop_reason, t.token_ids) for t in expected]


def test_an_error_is_that_of_its_own_request(tiny, batcher):
    """A call that fails is repeated request by request."""
    complete, asked = batcher.policy.complete, histories(tiny, 4)

    def failing(histories, callbacks):
        if asked[2] in histories:
            raise RuntimeError("the image is bad")
        return complete(histories, callbacks)

    go = threading.Event()

    async def all_of_them():
        batcher.policy.complete = lambda *arguments: go.wait(10) and failing(*arguments)
        tasks = await queued(batcher, [heard(batcher, history) for history in asked])
        go.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = asyncio.run(all_of_them())
    assert [str(each) if isinstance(each, Exception) else each[1].error for each in found] == [
        None,
        None,
        "the image is bad",
        None,
    ]
    assert asyncio.run(heard(batcher, asked[0]))[1].error is None


def test_closing_ends_those_that_wait(tiny):
    batcher = Batcher(LocalPolicy(tiny, max_new_tokens=16))
    go = threading.Event()
    held(batcher.policy, go)

    async def closed():
        tasks = await queued(batcher, [heard(batcher, history) for history in histories(tiny, 3)])
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        found = [completion for _, completion in await asyncio.gather(*tasks)]
        go.set()
        await closing
        return found

    found = asyncio.run(closed())
    assert all(isinstance(c, Completion) and c.error.kind == "cancelled" for c in found)
