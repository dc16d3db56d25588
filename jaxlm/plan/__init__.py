"""Plans a run on chips that this machine does not have: does it fit, how long, what to change.

    plan = plan_run(config, Topology.read("v5p:4x4x8"), tokens=1e12)
    print(render(plan))

For a TPU topology the train step itself is compiled (`compiling`), and its text is analysed (the
package `hlo`: FLOPs, bytes, collectives, liveness). The analytic model (the package `closed_form`)
computes the same figures without compiling; it is used for GPUs and in a search. It sees a model as
stacks of layers, which each kind of model describes (`transformer_stacks`, `recurrent_stacks`).
Both give `memory` and `roofline`; the figures of the chips and the efficiency factors are in
`devices`.
"""

from jaxlm.plan.devices import Topology
from jaxlm.plan.planning import Plan, plan_run, search_plans
from jaxlm.plan.text import render

__all__ = ["Plan", "Topology", "plan_run", "render", "search_plans"]
