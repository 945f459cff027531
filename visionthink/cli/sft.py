"""`visionthink sft`."""

from __future__ import annotations

import argparse
import dataclasses

from visionthink.cli.common import AddCommand, suggest
from visionthink.cli.launching import add_launching, end, launch
from visionthink.cli.settings import SHOWN_AS_JSON, add_settings, given_settings, shown
from visionthink.errors import OptionError
from visionthink.recipes.cold_start import SFT_RECIPES, prepare, read_material, sft_recipe
from visionthink.train.sft_config import SftConfig


def add(command: AddCommand) -> None:
    text = (
        "Fine-tune a model on transcripts (supervised), before reinforcement learning or instead of it. The output folder gets "
    )
    text += "checkpoints, metrics.jsonl and the final model."
    sft = command("sft", _sft, text, needs="train", as_json=SHOWN_AS_JSON)
    suggest(sft.add_argument("recipe", metavar="RECIPE", help=f"name of a recipe: {', '.join(SFT_RECIPES)}"), SFT_RECIPES)
    add_settings(sft, SftConfig, SftConfig.documentation(), {})
    sft.add_argument("--resume", action="store_true", help="continue from the last checkpoint in the output folder")
    sft.add_argument("--dry-run", action="store_true", help="check the settings and take one optimizer step; nothing is saved")
    add_launching(sft)


def _sft(options: argparse.Namespace) -> None:
    chosen = sft_recipe(options.recipe)
    config = chosen.config.replace(**given_settings(options, SftConfig))
    if shown(options, dataclasses.asdict(config), SftConfig.documentation(), SFT_RECIPES[options.recipe].__doc__ or ""):
        return
    if options.json:
        raise OptionError("--json: goes with --show")
    config = config.replace(out=options.out, resume=options.resume)
    launch(options, config.per_process)
    from visionthink.policies.checkpoint import check_files, describe
    from visionthink.train.processes import this_process
    from visionthink.train.sft import check_run, fine_tune

    check_run(config, dry_run=options.dry_run)
    check_files(config.model)
    material = None
    if config.demonstrations or not (chosen.own or (options.dry_run and chosen.stand_in)):
        material = read_material(config)
    if options.dry_run and chosen.stand_in:
        checkpoint, scripted = chosen.stand_in(config.rehearsed(config.out, this_process().num_processes))
        demonstrations = prepare(material or scripted, config, checkpoint)
        fine_tune(config, demonstrations, dry_run=True, checkpoint=checkpoint)
    else:
        if material is None:
            assert chosen.own is not None
            material = chosen.own(config)
        fine_tune(config, prepare(material, config, describe(config.model)), dry_run=options.dry_run)
    end(options, config.out)
