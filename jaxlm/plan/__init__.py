"""Plans a run on chips that are not there: whether it fits, how long it takes, what to change.

    plan = plan_run(config, Topology.read("v5p:4x4x8"), tokens=1e12)
    print(render(plan))

Of a TPU topology the very train step is compiled (`compiling`), and its text is read (`hlo_text`,
`counting`, `loops`, `groups`, `kernels`, `modules`: together `hlo`; `liveness` for the memory).
The analytic model (`facts`, `remat`, `activations`, `transfers`, `analytic`) has the same figures
in closed form; it answers for GPUs, and for a search. It sees a model as `stacks` of layers, which
each kind of model describes (`transformer_stacks`, `recurrent_stacks`). Both end in `memory` and
`roofline`; the figures of the chips and the few factors are in `devices`.
"""

from jaxlm.plan.devices import Topology
from jaxlm.plan.planning import Plan, plan_run, search_plans
from jaxlm.plan.text import render

__all__ = ["Plan", "Topology", "plan_run", "render", "search_plans"]
