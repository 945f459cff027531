"""An endpoint that speaks OpenAI's chat completions: the client, and what its replies mean.

`connection` asks, again where that may help, and never waits without a bound (`transport` is one request, `breaker` says when the
endpoint is down, `fields` what it does not take); `completions` reads what came back (`finish_reasons`, `usage` and `markup` are
parts of it), `failures` what went wrong, `reading` a reply while it comes (`events` and `streams` put it together). `client`
connects callers without an event loop.
"""

from visionthink.endpoint.client import Client
from visionthink.endpoint.completions import Completed
from visionthink.endpoint.connection import FURTHER_HEADERS, Connection
from visionthink.endpoint.endpoint import Endpoint
from visionthink.endpoint.failures import Unanswered
from visionthink.endpoint.reading import Delta

__all__ = ["FURTHER_HEADERS", "Client", "Completed", "Connection", "Delta", "Endpoint", "Unanswered"]
