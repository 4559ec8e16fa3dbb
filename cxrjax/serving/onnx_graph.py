"""From a traced JAX function to an ONNX graph, one node (or a few) for each primitive.

jax2onnx does this for any program, but it holds Orbax below 0.11.37 and cannot be installed beside
this package. Networks in evaluation need few primitives, and those are here; another one is refused
by its name. What does not depend on the films is computed while translating and becomes a constant;
what no output depends on (a decoder whose mask nobody asks for) is left out, translated or not.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.extend.core import Literal

from cxrjax.errors import UserError

OPSET = 17
MOST = 2**31 - 2**20  # bytes: a file of ONNX is one protocol buffer, which ends at 2 GiB
_REFUSED = "NotTranslated"  # a node that stands for what has no translation, until it is needed
_SAME = {
    "add": "Add", "add_any": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max",
    "min": "Min", "pow": "Pow", "exp": "Exp", "log": "Log", "tanh": "Tanh", "sqrt": "Sqrt",
    "neg": "Neg",
    "abs": "Abs", "erf": "Erf", "logistic": "Sigmoid", "sign": "Sign", "floor": "Floor",
    "gt": "Greater", "lt": "Less", "ge": "GreaterOrEqual", "le": "LessOrEqual", "eq": "Equal",
    "and": "And", "or": "Or", "not": "Not", "copy": "Identity", "copy_p": "Identity",
    "stop_gradient": "Identity", "sin": "Sin", "cos": "Cos",
}  # fmt: skip
_INLINE = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "remat",
           "checkpoint", "remat2", "custom_vjp_call_jaxpr")


def to_model(function: Callable, size: int, title: str) -> Any:
    """An `onnx.ModelProto` of {name: array} = function(film u8[b, size, size, 1]), b free.

    Raises:
      UserError: a primitive that is not translated, or weights that one file cannot hold.
    """
    from onnx import TensorProto, helper

    (batch,) = export.symbolic_shape("b")
    film = jax.ShapeDtypeStruct((batch, size, size, 1), np.uint8)
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(film)
    graph = _Graph()
    values = {closed.jaxpr.invars[0]: "film"}
    values.update(zip(closed.jaxpr.constvars, map(np.asarray, closed.consts)))
    graph.run(closed.jaxpr.eqns, values)
    outputs = []
    for name, var in zip(sorted(shapes), closed.jaxpr.outvars):
        graph.node("Identity", [graph.name(graph.get(values, var))], out=name)
        dims = ["b" if not isinstance(d, int) else d for d in var.aval.shape]
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
    graph.prune(sorted(shapes))
    inputs = [helper.make_tensor_value_info("film", TensorProto.UINT8, ["b", size, size, 1])]
    made = helper.make_graph(graph.nodes, title, inputs, outputs, graph.constants)
    return helper.make_model(
        made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8,
        producer_name="cxrjax")


def _times_one(factors: Sequence[Any]) -> str | None:
    """Of a product with ones that are known the other factor (both have its shape)."""
    ones = [not isinstance(f, str) and bool(np.all(f == 1)) for f in factors]
    named = [f for f in factors if isinstance(f, str)]
    return named[0] if any(ones) and named else None


class _Graph:
    """Nodes and constants so far; a value is the name of a tensor, or an array that is known."""

    def __init__(self):
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._count = 0
        self._known: dict[int, tuple[Any, str]] = {}

    def node(self, kind: str, inputs: Sequence[str], out: str | None = None, **more: Any) -> str:
        from onnx import helper

        self._count += 1
        out = out or f"t{self._count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], **more))
        return out

    def name(self, value: Any) -> str:
        """The tensor of a value; an array becomes a constant, once."""
        from onnx import numpy_helper

        if isinstance(value, str):
            return value
        if id(value) not in self._known:
            self._count += 1
            array = np.ascontiguousarray(value).reshape(np.shape(value))
            if array.dtype == jnp.bfloat16:
                array = array.astype(np.float32)
            self._known[id(value)] = (value, f"c{self._count}")
            self.constants.append(numpy_helper.from_array(array, f"c{self._count}"))
        return self._known[id(value)][1]

    def prune(self, outputs: Sequence[str]) -> None:
        """Leaves out what the outputs do not depend on.

        Raises:
          UserError: they depend on what is not translated, or the constants are too many.
        """
        needed, kept = set(outputs), []
        for node in reversed(self.nodes):
            if needed & set(node.output):
                if node.op_type == _REFUSED:
                    raise UserError(node.attribute[0].s.decode())
                kept.append(node)
                needed |= set(node.input)
        self.nodes = kept[::-1]
        self.constants = [c for c in self.constants if c.name in needed]
        size = sum(len(c.raw_data) for c in self.constants)
        if size > MOST:
            raise UserError(f"the weights are {size / 2**30:.1f} GiB, and a file of ONNX ends at "
                            "2 GiB: export it without --format")

    def ints(self, *values: Any) -> str:
        return self.name(np.array(values, np.int64))

    def get(self, values: dict, var: Any) -> Any:
        return np.asarray(var.val, var.aval.dtype) if isinstance(var, Literal) else values[var]

    def run(self, equations: Sequence[Any], values: dict) -> None:
        """Translates equations in order; `values` gains what they give."""
        for eqn in equations:
            given = [self.get(values, v) for v in eqn.invars]
            name = eqn.primitive.name
            if name in _INLINE:
                inner = next(eqn.params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr")
                             if k in eqn.params)
                consts = getattr(inner, "consts", [])
                inner = getattr(inner, "jaxpr", inner)
                own = dict(zip([*inner.constvars, *inner.invars],
                               [*map(np.asarray, consts), *given]))
                self.run(inner.eqns, own)
                values.update(zip(eqn.outvars, [self.get(own, v) for v in inner.outvars]))
                continue
            static = all(isinstance(d, int) for v in eqn.outvars
                         for d in getattr(v.aval, "shape", ()))
            if static and not any(isinstance(v, str) for v in given):
                found = eqn.primitive.bind(*map(jnp.asarray, given),
                                           **eqn.primitive.get_bind_params(eqn.params))
                found = found if eqn.primitive.multiple_results else [found]
                values.update(zip(eqn.outvars, map(np.asarray, found)))
                continue
            if name == "optimization_barrier":
                values.update(zip(eqn.outvars, given))
                continue
            if name == "mul" and (kept := _times_one(given)):  # a folded norm's
                values[eqn.outvars[0]] = kept
                continue
            if all(0 in getattr(v.aval, "shape", ()) for v in eqn.outvars):  # padding by nothing
                values.update((v, np.zeros(0, v.aval.dtype)) for v in eqn.outvars)
                continue
            try:
                found = self._translated(name, eqn, given)
            except UserError as error:
                found = [self.node(_REFUSED, [], words=str(error)) for _ in eqn.outvars]
            values.update(zip(eqn.outvars, found))

    def _translated(self, name: str, eqn: Any, given: Sequence[Any]) -> Sequence[str]:
        if name == "split":
            return self._split(eqn, given[0])
        if name == "unstack":
            return self._unstack(eqn, given[0])
        if name in _SAME:
            return [self.node(_SAME[name], [self.name(v) for v in given])]
        translate = getattr(self, f"_{name.replace('-', '_')}", None)
        if translate is None:
            raise UserError(f"the network computes {name!r}, which is not translated to ONNX: "
                            "export it without --format")
        return [translate(eqn, *given)]

    # --- shapes ---------------------------------------------------------------------------------

    def _to_shape(self, value: Any, shape: Sequence[Any]) -> str:
        free = [d for d in shape if not isinstance(d, int)]
        if len(free) > 1:
            raise UserError("a reshape of more than one free side is not translated to ONNX")
        return self.node("Reshape", [self.name(value), self.ints(
            *(d if isinstance(d, int) else -1 for d in shape))])

    def _reshape(self, eqn, value, *_):
        return self._to_shape(value, eqn.outvars[0].aval.shape)

    _squeeze = _expand_dims = _reshape

    def _broadcast_in_dim(self, eqn, value, *_):
        shape = eqn.outvars[0].aval.shape
        places = eqn.params["broadcast_dimensions"]
        own = eqn.invars[0].aval.shape
        between = [1] * len(shape)
        for place, size in zip(places, own):
            between[place] = size
        out = self._to_shape(value, between) if list(own) != between else self.name(value)
        if all(a == b for a, b in zip(between, shape)):
            return out
        if all(isinstance(d, int) or between[i] == d for i, d in enumerate(shape)):
            wanted = self.ints(*(d if isinstance(d, int) else 1 for d in shape))
        else:  # the number of films comes in here
            batch = self.node("Slice", [self.node("Shape", ["film"]), self.ints(0), self.ints(1)])
            parts = [self.ints(d) if isinstance(d, int) else batch for d in shape]
            wanted = self.node("Concat", parts, axis=0)
        return self.node("Expand", [out, wanted])

    def _transpose(self, eqn, value):
        return self.node("Transpose", [self.name(value)], perm=list(eqn.params["permutation"]))

    def _concatenate(self, eqn, *given):
        given = [self.name(v) for v, own in zip(given, eqn.invars) if 0 not in own.aval.shape]
        return self.node("Concat", given, axis=eqn.params["dimension"])

    def _stack(self, eqn, *given):
        axis = eqn.params["axis"]
        shape = [1 if i == axis else d for i, d in enumerate(eqn.outvars[0].aval.shape)]
        return self.node("Concat", [self._to_shape(v, shape) for v in given], axis=axis)

    def _unstack(self, eqn, value):
        axis = eqn.params["axis"]
        return [self.node("Gather", [self.name(value), self.name(np.array(i, np.int64))], axis=axis)
                for i in range(len(eqn.outvars))]

    def _cut(self, value, start, stop, steps):
        axes = [i for i, a in enumerate(start) if isinstance(stop[i], int)]
        if any(i not in axes and (a != 0 or steps[i] != 1) for i, a in enumerate(start)):
            raise UserError("a 'slice' of the films is not translated to ONNX: export it without "
                            "--format")
        return self.node("Slice", [
            self.name(value), self.ints(*(start[i] for i in axes)),
            self.ints(*(stop[i] for i in axes)), self.ints(*axes),
            self.ints(*(steps[i] for i in axes))])

    def _slice(self, eqn, value):
        p = eqn.params
        return self._cut(value, p["start_indices"], p["limit_indices"],
                         p["strides"] or [1] * len(p["start_indices"]))

    def _split(self, eqn, value):
        sizes, axis = eqn.params["sizes"], eqn.params["axis"]
        at, parts = 0, []
        for size in sizes:
            parts.append(self.node("Slice", [self.name(value), self.ints(at),
                                             self.ints(at + size), self.ints(axis)]))
            at += size
        return parts

    def _gather(self, eqn, value, places):
        """A window at one known place, or known places along one axis: how JAX writes x[:, 0]."""
        p, shape = eqn.params, eqn.invars[0].aval.shape
        numbers, sizes = p["dimension_numbers"], p["slice_sizes"]
        if not isinstance(places, str) and not getattr(numbers, "operand_batching_dims", ()):
            axes = numbers.start_index_map
            if places.ndim == 1:
                ends = [int(places[i]) + int(sizes[axis]) for i, axis in enumerate(axes)]
                out = self.node("Slice", [self.name(value), self.ints(*places.tolist()),
                                          self.ints(*ends), self.ints(*axes)])
                return self._to_shape(out, eqn.outvars[0].aval.shape)
            others = [i for i in range(len(shape)) if i not in axes]
            if (places.ndim == 2 and len(axes) == 1 and numbers.collapsed_slice_dims == axes
                    and tuple(numbers.offset_dims) == tuple(others)
                    and all(sizes[i] == shape[i] for i in others)):
                index = self.name(places[:, 0].astype(np.int64))
                return self.node("Gather", [self.name(value), index], axis=axes[0])
        raise UserError("a 'gather' of this kind is not translated to ONNX: export it without "
                        "--format")

    def _scatter_add(self, eqn, value, places, more):
        """Sums at known places along one axis: what is left of x[:, places] in a gradient."""
        numbers, shape = eqn.params["dimension_numbers"], eqn.invars[0].aval.shape
        axes = numbers.scatter_dims_to_operand_dims
        others = [i for i in range(len(shape)) if i not in axes]
        if (isinstance(places, str) or places.ndim != 2 or len(axes) != 1
                or getattr(numbers, "operand_batching_dims", ())
                or tuple(numbers.inserted_window_dims) != tuple(axes)
                or tuple(numbers.update_window_dims) != tuple(others)):
            raise UserError("a 'scatter' of this kind is not translated to ONNX: export it without "
                            "--format")
        (axis,) = axes
        which = np.zeros((len(places), shape[axis]), np.float32)
        which[np.arange(len(places)), places[:, 0]] = 1
        last = [*others, axis]
        more = self.node("Transpose", [self.name(more)], perm=last)
        sums = self.node("MatMul", [more, self.name(which)])
        sums = self.node("Transpose", [sums], perm=np.argsort(last).tolist())
        return self.node("Add", [self.name(value), sums])

    def _apart(self, value, shape, steps):
        """The value with `steps` - 1 zeros after each number but the last, along each axis."""
        for axis, step in enumerate(steps):
            if step == 1:
                continue
            between = [*shape[: axis + 1], 1, *shape[axis + 1 :]]
            pads = [0] * (2 * len(between))
            pads[len(between) + axis + 1] = step - 1
            value = self.node("Pad", [self._to_shape(value, between), self.ints(*pads)])
            shape = [*shape[:axis], shape[axis] * step, *shape[axis + 1 :]]
            value = self.node("Slice", [
                self._to_shape(value, shape), self.ints(0), self.ints(shape[axis] - step + 1),
                self.ints(axis)])
            shape = [*shape[:axis], shape[axis] - step + 1, *shape[axis + 1 :]]
        return value

    def _rev(self, eqn, value):
        axes = eqn.params["dimensions"]
        return self.node("Slice", [
            self.name(value), self.ints(*[-1] * len(axes)), self.ints(*[-(2**31)] * len(axes)),
            self.ints(*axes), self.ints(*[-1] * len(axes))])

    def _pad(self, eqn, value, fill):
        config = eqn.params["padding_config"]
        if any(inner for _, _, inner in config):
            if isinstance(fill, str) or np.any(fill != 0):
                raise UserError("a 'pad' between pixels with other than zeros is not translated to "
                                "ONNX: export it without --format")
            value = self._apart(value, eqn.invars[0].aval.shape, [c[2] + 1 for c in config])
        pads = self.ints(*(c[0] for c in config), *(c[1] for c in config))
        return self.node("Pad", [self.name(value), pads, self.name(fill)])

    # --- values ---------------------------------------------------------------------------------

    def _convert_element_type(self, eqn, value):
        return self._cast(value, eqn.params["new_dtype"])

    def _cast(self, value, dtype):
        from onnx import helper

        dtype = np.dtype(np.float32) if dtype == jnp.bfloat16 else np.dtype(dtype)
        return self.node("Cast", [self.name(value)], to=helper.np_dtype_to_tensor_dtype(dtype))

    def _square(self, eqn, value):
        return self.node("Mul", [self.name(value)] * 2)

    def _integer_pow(self, eqn, value):
        power = self.name(np.array(eqn.params["y"], np.float32))
        return self.node("Pow", [self.name(value), power])

    def _rsqrt(self, eqn, value):
        return self.node("Reciprocal", [self.node("Sqrt", [self.name(value)])])

    def _erfc(self, eqn, value):
        one = self.name(np.array(1, np.float32))
        return self.node("Sub", [one, self.node("Erf", [self.name(value)])])

    def _log1p(self, eqn, value):
        return self.node("Log", [self.node("Add", [self.name(np.array(1, np.float32)),
                                                   self.name(value)])])

    def _ne(self, eqn, a, b):
        return self.node("Not", [self.node("Equal", [self.name(a), self.name(b)])])

    def _is_finite(self, eqn, value):
        top = self.name(np.array(np.finfo(np.float32).max))
        return self.node("LessOrEqual", [self.node("Abs", [self.name(value)]), top])

    def _select_n(self, eqn, which, off, on):
        return self.node("Where", [self.name(which), self.name(on), self.name(off)])

    def _reduce_sum(self, eqn, value):
        return self.node("ReduceSum", [self.name(value), self.ints(*eqn.params["axes"])],
                         keepdims=0)

    def _reduce_max(self, eqn, value):
        return self.node("ReduceMax", [self.name(value)], axes=list(eqn.params["axes"]),
                         keepdims=0)

    def _dot_general(self, eqn, a, b):
        (ca, cb), (ba, bb) = eqn.params["dimension_numbers"]
        rank = [len(v.aval.shape) for v in eqn.invars]
        if not ba and ca == (rank[0] - 1,) and cb == (0,) and rank[1] == 2:
            return self.node("MatMul", [self.name(a), self.name(b)])
        letters = iter(string.ascii_lowercase)
        first = [next(letters) for _ in range(rank[0])]
        second = [""] * rank[1]
        for i, j in [*zip(ca, cb), *zip(ba, bb)]:
            second[j] = first[i]
        second = [s or next(letters) for s in second]
        out = [first[i] for i in ba] + [s for i, s in enumerate(first) if i not in (*ca, *ba)]
        out += [s for j, s in enumerate(second) if j not in (*cb, *bb)]
        return self.node("Einsum", [self.name(a), self.name(b)],
                         equation=f"{''.join(first)},{''.join(second)}->{''.join(out)}")

    def _conv_general_dilated(self, eqn, x, kernel):
        p = eqn.params
        spec = p["dimension_numbers"]
        if p["batch_group_count"] != 1 or any(side < 0 for pair in p["padding"] for side in pair):
            raise UserError("a convolution of this kind is not translated to ONNX: export it "
                            "without --format")
        x = self.node("Transpose", [self.name(x)], perm=list(spec.lhs_spec))
        shape = [eqn.invars[0].aval.shape[i] for i in spec.lhs_spec]
        x = self._apart(x, shape, [1, 1, *p["lhs_dilation"]])
        if isinstance(kernel, str):
            kernel = self.node("Transpose", [kernel], perm=list(spec.rhs_spec))
        else:
            kernel = np.transpose(kernel, spec.rhs_spec)
        shape = [eqn.invars[1].aval.shape[i] for i in spec.rhs_spec[2:]]
        y = self.node("Conv", [x, self.name(kernel)], kernel_shape=shape,
                      strides=list(p["window_strides"]), dilations=list(p["rhs_dilation"]),
                      group=p["feature_group_count"],
                      pads=[lo for lo, _ in p["padding"]] + [hi for _, hi in p["padding"]])
        return self.node("Transpose", [y], perm=list(np.argsort(spec.out_spec).tolist()))

    def _reduce_window_max(self, eqn, x):
        return self._pool(eqn, x, "MaxPool")

    def _reduce_window_sum(self, eqn, x):
        y = self._pool(eqn, x, "AveragePool", count_include_pad=1)
        return self.node("Mul", [y, self.name(np.array(
            np.prod(eqn.params["window_dimensions"]), np.float32))])

    def _pool(self, eqn, x, kind, **more):
        p = eqn.params
        window, steps, pads = (list(p[k]) for k in
                               ("window_dimensions", "window_strides", "padding"))
        if len(window) != 4 or window[0] != 1 or window[3] != 1:
            raise UserError("a pooling over other axes than rows and columns is not translated")
        x = self.node("Transpose", [self.name(x)], perm=[0, 3, 1, 2])
        y = self.node(kind, [x], kernel_shape=window[1:3], strides=steps[1:3],
                      pads=[pads[1][0], pads[2][0], pads[1][1], pads[2][1]], **more)
        return self.node("Transpose", [y], perm=[0, 2, 3, 1])
