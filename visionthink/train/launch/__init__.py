"""Starting a run on several processes: the files for `accelerate launch` that come with the package, and its command line.

Scaling out is accelerate's, DeepSpeed's and torch's; nothing here runs inside of the processes.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from visionthink.errors import OptionError, choose_from

SHIPPED = ("ddp", "zero2", "zero3", "fsdp2")
"""Names of the files that come with the package."""
_FOLDER = Path(__file__).parent


def launch_file(name: str) -> Path:
    """The file of a shipped name, or at a path.

    Raises:
        OptionError: there is none.
    """
    file = _FOLDER / f"{name}.yaml" if name in SHIPPED else Path(name).expanduser()
    if not file.exists():
        raise OptionError(f"--launch {name}: {choose_from(name, SHIPPED)}, or a file of accelerate config")
    return file


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What `accelerate launch` is started with."""

    file: Path
    """Its configuration."""
    processes: int
    """Over all machines together."""
    on_cpu: bool
    deepspeed: Path | None = None
    """DeepSpeed's configuration, where the file names one: accelerate itself looks for it in the current folder."""

    @classmethod
    def read(cls, name: str, processes: int | None) -> Launch:
        """A file by the name of a shipped one or by its path, and for how many processes.

        Args:
            name: as users write it.
            processes: as the user asks for; None takes what the file says, else the number of visible GPUs.

        Raises:
            OptionError: there is no such file, it cannot be read, what it needs is not installed, or there is no GPU and no
                number of processes.
        """
        import torch
        import yaml

        file = launch_file(name)
        try:
            said = yaml.safe_load(file.read_text("utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            said = None
        if not isinstance(said, dict):
            raise OptionError(f"--launch {name}: cannot be read; accelerate config writes such a file")
        if said.get("distributed_type") == "DEEPSPEED" and importlib.util.find_spec("deepspeed") is None:
            raise OptionError(f"--launch {name}: DeepSpeed is not installed; pip install 'visionthink[deepspeed]'")
        devices = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
        count = processes or said.get("num_processes") or devices
        if not count:
            raise OptionError(f"--launch {name}: there is no GPU here; --processes N runs N processes on the CPU")
        launch = cls(file=file, processes=count, on_cpu=not devices)
        return dataclasses.replace(
            launch, deepspeed=launch.beside((said.get("deepspeed_config") or {}).get("deepspeed_config_file"))
        )

    def beside(self, name: Any) -> Path | None:
        """A file that the configuration names, relative to the folder it lies in."""
        return self.file.parent / name if isinstance(name, str) else None

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The command line that runs visionthink with some arguments in every process."""
        options = ["--config_file", str(self.file), "--num_processes", str(self.processes)]
        if self.deepspeed:
            options += ["--deepspeed_config_file", str(self.deepspeed)]
        if self.on_cpu:
            options += ["--mixed_precision", "no"]
        return [sys.executable, "-m", "accelerate.commands.launch", *options, "-m", "visionthink", *arguments]

    def start(self, arguments: Sequence[str]) -> NoReturn:
        """Run it in place of this process, which ends with its exit status."""
        sys.stdout.flush()
        sys.stderr.flush()
        command = self.command(arguments)
        os.execv(command[0], command)
