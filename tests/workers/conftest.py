"""A Ray cluster of two nodes on this machine."""

import os

import pytest

# Read by Ray as it is imported; without it, Ray looks for 127.0.0.1 under the machine's own address.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
pytest.importorskip("ray")


@pytest.fixture(scope="package")
def address():
    """Of the cluster."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 2, "include_dashboard": False, "node_ip_address": "127.0.0.1"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # Else Ray's workers give way to all other tests' processes, and what waits for them takes minutes.
        patch.setenv("RAY_worker_niceness", "0")
        machines = Cluster(initialize_head=True, head_node_args=node)
        try:
            machines.add_node(**node)
            yield machines.address
        finally:
            machines.shutdown()
