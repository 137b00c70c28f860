"""Nodes that are killed, join, are started again one by one, and shards that move, while documents come and are found.

What was acknowledged is there afterwards, with each shard on two nodes; calls go on, or fail by name in time.
"""

import signal

from .nodes import NEEDS_PROGRAM, wait_for

pytestmark = NEEDS_PROGRAM


def test_a_node_is_killed_during_upserts_and_searches(cluster, life):
    life.start(cluster.nodes[0], cluster.nodes[1])
    cluster.nodes[2].kill()
    life.go_on(60)
    cluster.nodes[2].start()
    cluster.nodes[2].wait()
    life.go_on()
    life.check("a node killed (-9), and started again")


def test_the_node_that_is_asked_is_killed(cluster, life):
    """Its calls fail, or wait until it is there again; what goes through the others goes on."""
    life.start(cluster.nodes[2], cluster.nodes[1])
    cluster.nodes[2].kill()
    searches = life.searches
    wait_for(lambda: life.searches >= searches + 30 and "ServerError" in life.errors)
    cluster.nodes[2].start()
    cluster.nodes[2].wait()
    life.go_on()
    assert set(life.errors) == {"ServerError"}
    life.check("the node that writes go to killed (-9), and started again")


def test_the_leader_is_killed(cluster, life):
    leader = cluster.leader()
    others = [node for node in cluster.nodes if node is not leader]
    life.start(others[0], others[1])
    leader.kill()
    life.go_on(30)
    assert wait_for(cluster.leader) is not leader
    life.go_on(30)
    leader.start()
    leader.wait()
    life.check("the leader of Raft killed (-9); another is elected")


def test_a_node_joins_and_a_shard_moves_to_it(cluster, life):
    life.start(cluster.nodes[0], cluster.nodes[1])
    new = cluster.join()
    life.go_on()
    shard = next(each for each in cluster.shards(life.name, cluster.nodes[0]) if each["peer_id"] != new.peer)
    move = {"shard_id": shard["shard_id"], "from_peer_id": shard["peer_id"], "to_peer_id": new.peer}
    cluster.nodes[0].post(f"/collections/{life.name}/cluster", {"move_shard": move})
    wait_for(
        lambda: any(
            each["peer_id"] == new.peer and each["state"] == "Active"
            for each in cluster.shards(life.name, cluster.nodes[0])
        )
    )
    life.go_on()
    life.check("a node joins, and a shard moves to it")


def test_nodes_are_started_again_one_by_one(cluster, life):
    """Writes go through one of them, too: its calls are repeated until it is there again."""
    life.start(cluster.nodes[0], cluster.nodes[1])
    for node in cluster.nodes:
        node.kill(signal.SIGTERM)
        node.start()
        node.wait()
        cluster.settle()
        cluster.whole(life.name)
        life.go_on()
    life.check("every node stopped (-TERM) and started again, one by one")


def test_two_of_three_nodes_are_killed(cluster, life):
    """A shard that has lost both its replicas answers nothing: calls fail by name, until the nodes are back."""
    life.start(cluster.nodes[0])
    for node in cluster.nodes[1:]:
        node.kill()
    wait_for(lambda: life.errors)
    for node in cluster.nodes[1:]:
        node.start()
    for node in cluster.nodes[1:]:
        node.wait()
    life.go_on()
    assert set(life.errors) == {"ServerError"}
    life.check("all nodes but one killed (-9), and started again")
