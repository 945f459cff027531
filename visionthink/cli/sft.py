"""`visionthink sft`."""

from __future__ import annotations

import argparse

from visionthink.cli.common import AddCommand, folder
from visionthink.cli.launching import add_launching, end, launch
from visionthink.cli.settings import add_settings, given_settings
from visionthink.recipes.cold_start import SFT_RECIPES, prepare, read_material, sft_recipe
from visionthink.train.sft_config import SftConfig


def add(command: AddCommand) -> None:
    sft = command("sft", _sft, "Fine-tune on transcripts: a cold start, or instead of reinforcement learning.")
    sft.add_argument("recipe", metavar="RECIPE", help=", ".join(SFT_RECIPES))
    sft.add_argument("--out", type=folder, required=True, help="folder for checkpoints, metrics.jsonl and the final model")
    sft.add_argument("--resume", action="store_true", help="continue from the last checkpoint in the output folder")
    sft.add_argument("--dry-run", action="store_true", help="check the settings, take one optimizer step, save nothing")
    add_launching(sft)
    add_settings(sft, SftConfig, SftConfig.documentation(), {})


def _sft(options: argparse.Namespace) -> None:
    chosen = sft_recipe(options.recipe)
    config = chosen.config.replace(**given_settings(options, SftConfig), out=options.out, resume=options.resume)
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
