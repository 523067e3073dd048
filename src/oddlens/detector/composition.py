"""Composition of graphs: the user's own backbone is put into the exported graph of the model around it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from oddlens.models.backbones.onnx_backbone import PLACEHOLDER
from oddlens.models.backbones.onnx_exporter import clear_metadata

DOMAIN, OPERATOR = PLACEHOLDER.split("::")
PREFIX = "backbone"  # of the names of the backbone's parts


def insert_backbone(model: ModelProto, network: ModelProto) -> None:
    """Replace the placeholders in a model by the graph of a network, whose weights are there once.

    A network for single images is put into a loop over the images of a batch.
    """
    graph, sparse = model.graph, network.graph.sparse_initializer
    weights = {*(tensor.name for tensor in network.graph.initializer), *(tensor.values.name for tensor in sparse)}
    clear_metadata(network.graph)
    nodes = list(graph.node)
    del graph.node[:]
    count = 0
    for node in nodes:
        if node.domain != DOMAIN:
            graph.node.append(node)
            continue
        graph.node.extend(network_nodes(node, network.graph, weights, f"{PREFIX}{count}."))
        count += 1
    for tensor in network.graph.initializer:
        graph.initializer.add().CopyFrom(tensor)
        graph.initializer[-1].name = f"{PREFIX}.{tensor.name}"
    for weight in sparse:
        graph.sparse_initializer.add().CopyFrom(weight)
        graph.sparse_initializer[-1].values.name = f"{PREFIX}.{weight.values.name}"
    others = [entry for entry in model.opset_import if entry.domain != DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(others)
    model.ir_version = max(model.ir_version, network.ir_version)


def network_nodes(
    placeholder: NodeProto, network: GraphProto, weights: Collection[str], prefix: str
) -> list[NodeProto]:
    """The nodes that take the place of a placeholder."""

    def rename(name: str) -> str:
        if not name:
            return name  # an optional input that is left out
        return f"{PREFIX}.{name}" if name in weights else prefix + name

    body = GraphProto()
    body.CopyFrom(network)
    rename_graph(body, rename)
    (image,) = [value for value in network.input if value.name not in weights]
    names = [text.decode() for text in helper.get_node_attr_value(placeholder, "names")]
    is_single = image.type.tensor_type.shape.dim[0].dim_value == 1
    inputs, outputs = rename(image.name), [rename(name) for name in names]
    if not is_single:
        return [
            helper.make_node("Identity", list(placeholder.input), [inputs]),
            *body.node,
            *(
                helper.make_node("Identity", [name], [target])
                for name, target in zip(outputs, placeholder.output, strict=True)
            ),
        ]
    return loop_over_images(placeholder, body.node, inputs, outputs, prefix)


def loop_over_images(
    placeholder: NodeProto, nodes: Collection[NodeProto], image: str, outputs: Sequence[str], prefix: str
) -> list[NodeProto]:
    """Nodes that run `nodes`, which make `outputs` of one `image`, for each image of the placeholder's batch."""
    zero, one, condition, number = (f"{prefix}loop.{name}" for name in ("zero", "one", "condition", "number"))
    position, next_condition, count, repeats = (f"{prefix}loop.{name}" for name in ("at", "next", "shape", "count"))
    rows = [f"{prefix}loop.rows{i}" for i in range(len(outputs))]
    results = [f"{prefix}loop.result{i}" for i in range(len(outputs))]
    body = helper.make_graph(
        [
            helper.make_node("Unsqueeze", [number, zero], [position]),
            helper.make_node("Gather", [placeholder.input[0], position], [image], axis=0),
            *nodes,
            *(helper.make_node("Identity", pair[:1], pair[1:]) for pair in zip(outputs, results, strict=True)),
            helper.make_node("Identity", [condition + "_in"], [next_condition]),
        ],
        f"{prefix}loop",
        [
            helper.make_tensor_value_info(number, TensorProto.INT64, []),
            helper.make_tensor_value_info(condition + "_in", TensorProto.BOOL, []),
        ],
        [
            helper.make_tensor_value_info(next_condition, TensorProto.BOOL, []),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in results),
        ],
    )
    return [
        constant(zero, TensorProto.INT64, [1], 0),
        constant(one, TensorProto.INT64, [1], 1),
        constant(condition, TensorProto.BOOL, [], True),
        helper.make_node("Shape", list(placeholder.input), [count], start=0, end=1),
        helper.make_node("Squeeze", [count, zero], [repeats]),
        helper.make_node("Loop", [repeats, condition], rows, body=body),
        *(
            helper.make_node("Squeeze", [row, one], [target])
            for row, target in zip(rows, placeholder.output, strict=True)
        ),
    ]


def constant(name: str, kind: int, shape: Sequence[int], value: int) -> NodeProto:
    """A node with a constant of one value."""
    return helper.make_node("Constant", [], [name], value=helper.make_tensor(name, kind, shape, [value]))


def rename_graph(graph: GraphProto, rename: Callable[[str], str]) -> None:
    """Rename everything in a graph, and in the graphs inside its nodes."""
    for node in graph.node:
        node.name = rename(node.name)
        node.input[:] = map(rename, node.input)
        node.output[:] = map(rename, node.output)
        for attribute in node.attribute:
            for part in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                rename_graph(part, rename)
    for named in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        named.name = rename(named.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = rename(sparse.values.name)
