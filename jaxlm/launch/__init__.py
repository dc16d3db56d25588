"""How a run starts on a pod, a cluster, a host or in local processes: `jaxlm launch TARGET CONFIG`.

A target (one file each) makes a `Plan` of steps from a small launch config and a run's config. A
dry run prints the steps as a shell script; a real one gives the same steps to a `Runner`.

    jaxlm launch launch/tpu_vm.yaml configs/quickstart.yaml --dry-run

Nothing here imports jax: a laptop that launches has no accelerator to touch.
"""
