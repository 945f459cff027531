"""A policy that says what it was told to: for tests, docs and dry runs. Needs no model.

ScriptedPolicy(["<answer>red</answer>"])                    # every history gets the first line, then the second, ...
ScriptedPolicy(lambda history: "<answer>red</answer>")      # or whatever a function makes of the history
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import AsyncGenerator, Callable, Sequence

from visionthink.errors import OptionError
from visionthink.policies.render import Renderer
from visionthink.types import Completion, History, turns_taken


class ScriptedPolicy:
    """Replies with line t of the script in turn t of every episode, or with what a function returns.

    With a `renderer` the completions carry token ids like those of a real policy: prompt ids, sampled ids and the
    end-of-turn token.

    Raises:
        OptionError: an episode runs longer than the script.
    """

    def __init__(
        self, script: Sequence[str | Completion] | Callable[[History], str | Completion], renderer: Renderer | None = None
    ):
        self.script, self.renderer = script, renderer

    def complete(self, histories: Sequence[History]) -> list[Completion]:
        return [self._reply(history) for history in histories]

    async def speak(self, history: History, until: Callable[[str], bool] | None = None) -> AsyncGenerator[str | Completion]:
        """The same word by word, see `episode.Speaker`."""
        completion, said = self._reply(history), ""
        for word in re.findall(r"\s*\S+|\s+", completion.text):
            yield word
            said += word
            if until is not None and until(said) and said != completion.text:
                yield dataclasses.replace(self._dressed(Completion(said), history), finish_reason="stop")
                return
        yield completion

    def _reply(self, history: History) -> Completion:
        if callable(self.script):
            said = self.script(history)
        else:
            turn = turns_taken(history)
            if turn >= len(self.script):
                raise OptionError(f"the script has {len(self.script)} lines and turn {turn + 1} was asked for")
            said = self.script[turn]
        return self._dressed(said if isinstance(said, Completion) else Completion(said), history)

    def _dressed(self, completion: Completion, history: History) -> Completion:
        return self.renderer.dress(completion, history) if self.renderer else completion
