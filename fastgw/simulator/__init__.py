"""The embedded default: OpenAI and DeepSeek, simulated over real TLS, with faults on demand.

::

    simulator = await start()
    simulator.connect_to        # where api.openai.com:443 and api.deepseek.com:443 really are
    simulator.ca_file           # the certificate to trust
    simulator.openai.fault = Fault(FaultKind.STATUS, status=503)
    await simulator.close()

Nothing of the gateway is used in here, so tests may take it as the judge of what was sent.
"""

from fastgw.simulator.faults import Fault, FaultKind
from fastgw.simulator.provider import Ending, Provider, Record
from fastgw.simulator.simulator import DEFAULT_KEYS, Simulator, start

__all__ = ["DEFAULT_KEYS", "Ending", "Fault", "FaultKind", "Provider", "Record", "Simulator", "start"]
