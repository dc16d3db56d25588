"""Starts a run on a pod, a cluster, one host or in local processes: `jaxlm launch TARGET CONFIG`.

A target (one file each) makes a `LaunchPlan` of steps from a launch config and a run's config. A
dry run prints the steps as a shell script; otherwise a `Runner` runs the same steps.

    jaxlm launch launch/tpu_vm.yaml configs/quickstart.yaml --dry-run

Nothing here imports jax: a launch needs no accelerator on this machine.
"""
