"""Pictures of the next step are opened while the model works: each file once a step, within a limit, with the same errors."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from launching import on_processes
from PIL import Image
from training import rollout_batch, small

from visionthink import Example, picture
from visionthink.errors import ImageError
from visionthink.train.pictures import OpenedPictures
from visionthink.train.run import train
from visionthink.train.trainer import make_trainer


@pytest.fixture
def opened(monkeypatch) -> list[tuple[str, bool]]:
    """Files that were opened, and whether by the main thread, in order."""
    found: list[tuple[str, bool]] = []
    usual = picture.open_image

    def opening(source, **options):
        found.append((Path(source).stem, threading.current_thread() is threading.main_thread()))
        return usual(source, **options)

    monkeypatch.setattr(picture, "open_image", opening)
    return found


@pytest.fixture
def examples(tmp_path) -> list[Example]:
    found = []
    for i in range(12):
        Image.new("RGB", (112, 112), (20 * i, 90, 160)).save(tmp_path / f"{i}.png")
        found.append(Example(str(i), "Which colour?", tmp_path / f"{i}.png", answer=str(i % 3)))
    return found


def until(condition) -> bool:
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_the_next_step_is_opened_while_this_one_is_learnt_from(tmp_path, examples, opened):
    trainer = make_trainer(small(tmp_path / "run", steps=3, shuffle=False), examples)
    opened.clear()  # the longest episode has been looked at
    batches = iter(trainer.get_train_dataloader())
    trainer.current_gradient_accumulation_steps = 1
    trainer._prepare_inputs(next(batches))
    assert until(lambda: len(opened) == 8 and not trainer.sampler.pictures.pending)
    assert sorted(opened[:4]) == [(str(i), False) for i in range(4)]  # of this step, and then of the next one
    assert sorted(opened[4:], key=lambda o: int(o[0])) == [(str(i), False) for i in range(4, 8)]
    assert trainer.sampler.pictures.bytes_held == 4 * 4 * (112 * 112 + 56 * 56)
    assert trainer.examples_of(1) == ["4", "5", "6", "7"]


@pytest.mark.slow
def test_every_file_is_opened_once_a_step(tmp_path, examples, opened):
    """Twelve examples, three steps of four, and each again in the next three."""
    train(small(tmp_path / "run", steps=6, shuffle=True), examples)
    files = Counter(name for name, _ in opened)
    longest = files.most_common(1)[0][0]
    assert files == Counter({str(i): 2 for i in range(12)}) + Counter({longest: 1})  # and the longest episode before


def test_views_are_shared_by_a_group_and_pictures_are_let_go(tmp_path, examples):
    trainer = make_trainer(small(tmp_path / "run", shuffle=False), examples)
    rollout_batch(trainer)
    for begin in range(0, 16, 4):
        group = trainer.step.rollouts[begin : begin + 4]
        assert len({id(rollout.images[0]) for rollout in group}) == 1
        assert {rollout.images[0].size for rollout in group} == {(56, 56)}


def test_a_picture_that_cannot_be_opened_is_found_at_its_turn(tmp_path, examples, caplog):
    config = small(tmp_path / "run", steps=3, shuffle=False)
    trainer = make_trainer(config, examples)
    (tmp_path / "5.png").unlink()
    (tmp_path / "6.png").write_bytes(b"no image")
    batches = iter(trainer.get_train_dataloader())
    trainer.current_gradient_accumulation_steps = 1
    trainer._prepare_inputs(next(batches))
    assert until(lambda: not trainer.sampler.pictures.pending)
    assert trainer.sampler.rejected == {} and not (tmp_path / "run" / "rejects.jsonl").exists()
    trainer._step = config.steps  # the next call generates
    trainer._buffered_inputs, trainer.state.global_step = None, 1
    trainer._prepare_inputs(next(batches))
    assert trainer.sampler.rejected == {
        "5": f"example 5, {tmp_path / '5.png'}: no such file",
        "6": trainer.sampler.rejected["6"],
    }
    assert trainer.sampler.rejected["6"].startswith(f"example 6, {tmp_path / '6.png'}: not an image file that can be read")
    with pytest.raises(ImageError) as error:
        trainer.sampler.source.episodes("6", 1)
    assert str(error.value) == trainer.sampler.rejected["6"]
    groups = [trainer.step.transcripts[i].example_id for i in range(0, 16, 4)]
    assert groups[0] == "4" and groups[3] == "7" and not {"5", "6"} & set(groups)


def test_as_many_are_held_ahead_as_there_is_room_for(examples, opened):
    """112x112 px are 50,176 bytes. One a thread may be under way when the limit is reached."""
    by_id = {e.id: e for e in examples}

    def open_example(example_id: str):
        return by_id[example_id], picture.open_pictures(by_id[example_id])

    pictures = OpenedPictures(open_example, most_bytes=100_000)
    pictures._pool._max_workers = 1
    pictures.begin([str(i) for i in range(12)], ahead=True)
    assert until(lambda: not pictures.pending)
    assert [name for name, _ in opened] == ["0", "1"] and pictures.bytes_held == 100_352
    pictures.begin([str(i) for i in range(6)])
    assert [pictures.get(str(i))[0].id for i in range(6)] == [str(i) for i in range(6)]
    assert [name for name, _ in opened] == [str(i) for i in range(6)]
    assert pictures.get("3")[1] is pictures.get("3")[1] and len(opened) == 6
    pictures.drop()
    assert pictures.bytes_held == 0
    pictures.get("3")
    assert len(opened) == 7


@pytest.mark.slow
def test_two_processes_know_what_they_will_sample(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "import json, os, sys\n"
        "from pathlib import Path\n"
        "from training import small\n"
        "from visionthink.data import synth\n"
        "from visionthink.train.trainer import make_trainer\n"
        "out = Path(sys.argv[1])\n"
        "config = small(out / 'run', steps=3, prompts_per_step=6, group_size=2, updates_per_step=3, micro_batch=1)\n"
        "trainer = make_trainer(config, synth.suite(10, split='train'))\n"
        "sampled, usual = [], trainer.sampler.sample\n"
        "trainer.sampler.sample = lambda ids: sampled.append(list(ids)) or usual(ids)\n"
        "trainer.train()\n"
        "(out / f\"{os.environ['RANK']}.json\").write_text(json.dumps([sampled, [trainer.examples_of(i) for i in range(3)]]))\n"
    )
    done = on_processes(2, script, tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    [one, other] = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert one[0] == one[1] and other[0] == other[1] and [len(ids) for ids in one[0]] == [3, 3, 3]
    assert one[0] != other[0]
