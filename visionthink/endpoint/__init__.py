"""An endpoint that speaks OpenAI's chat completions: the client, and what its replies mean.

`client` asks, again where that may help, and never waits without a bound; `completions` reads what came back, `failures` what
went wrong, `breaker` when that means that the endpoint is down, `streams` bodies that are no single JSON value.
"""

from visionthink.endpoint.client import Client, Connection, Endpoint
from visionthink.endpoint.completions import Completed
from visionthink.endpoint.failures import Unanswered

__all__ = ["Client", "Completed", "Connection", "Endpoint", "Unanswered"]
