"""Keras models of dense layers and leaky rectifiers, as lists of steps, and their gradients without a tape.

    dense    h = x W + c          gradient at x = gradient at h times W^T
    leaky    h = x > 0 ? x : slope * x
    concat   h = [x, y, ...]
    gram     h = (M x)(M x)^T     of points x [batch, points, axes], M constant

Which case of the rectifiers holds is found in one pass forward; given that, all but the last kind are linear. The last
is no layer of a model: inputs may be computed by it from others.
"""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

# As the compiled op counts them.
INPUT, DENSE, LEAKY, CONCAT, GRAM = range(5)


@dataclasses.dataclass(frozen=True)
class Step:
    """One step; `index` is that of the input, the kernel, the slope or the matrix, `bias` 0 or one more than its."""

    kind: int
    index: int
    sources: tuple[int, ...] = ()
    bias: int = 0


@dataclasses.dataclass(frozen=True)
class PiecewiseLinear:
    """Steps, each after its sources: first the inputs.

    Attributes:
        steps: Tuple of `Step`.
        outputs: Indices of the steps whose sum is differentiated.
        kernels: Variables or tensors `[in, out]`.
        biases: Variables or tensors `[out]`.
        slopes: Numbers, none negative.
        grams: Tensors `[lines, points]`.
    """

    steps: tuple
    outputs: tuple
    kernels: tuple
    biases: tuple
    slopes: tuple
    grams: tuple = ()

    @property
    def num_inputs(self):
        """Number of inputs."""
        return sum(step.kind == INPUT for step in self.steps)

    def with_gram(self, matrix):
        """The same, where the first input is computed from the second one by a "gram"."""
        count = self.num_inputs - 1
        moved = [count, *range(count), *range(count + 1, len(self.steps))]
        steps = [*(Step(INPUT, index) for index in range(count)), Step(GRAM, 0, (0,))]
        for step in self.steps[count + 1 :]:
            steps.append(dataclasses.replace(step, sources=tuple(moved[source] for source in step.sources)))
        outputs = tuple(moved[output] for output in self.outputs)
        return dataclasses.replace(self, steps=tuple(steps), outputs=outputs, grams=(matrix,))

    def check(self, shapes):
        """Refuses inputs that do not fit, as far as their shapes are known.

        Args:
            shapes: `tf.TensorShape` of each input, `[batch, ...]`.

        Raises:
            ValueError: If a kernel takes another number of features.
        """
        sizes = []
        for step in self.steps:
            given = [sizes[source] for source in step.sources]
            size = None if None in given else sum(given)
            if step.kind == INPUT:
                size = shapes[step.index][1:].num_elements()
            elif step.kind == DENSE:
                rows, columns = self.kernels[step.index].shape
                if size not in (None, rows):
                    told = ", ".join(str(shape) for shape in shapes)
                    raise ValueError(f"A layer of the critic takes {rows} numbers a sample, inputs {told} give {size}.")
                size = columns
            elif step.kind == GRAM:
                size = self.grams[step.index].shape[0] ** 2
            sizes.append(size)

    def gradients(self, inputs, wanted):
        """Gradients of the summed outputs.

        Args:
            inputs: List of tensors `[batch, ...]`.
            wanted: Indices of steps.

        Returns:
            A tensor `[batch, size]` for each.
        """
        values, slopes = self._forward(inputs)
        changes = [[] for _ in self.steps]
        for output in self.outputs:
            changes[output].append(tf.ones_like(values[output]))
        for index in reversed(range(len(self.steps))):
            if not changes[index]:
                changes[index] = [tf.zeros_like(values[index])]
            changes[index] = change = tf.add_n(changes[index]) if len(changes[index]) > 1 else changes[index][0]
            step = self.steps[index]
            if step.kind == DENSE:
                kernel = tf.convert_to_tensor(self.kernels[step.index])
                changes[step.sources[0]].append(tf.matmul(change, kernel, transpose_b=True))
            elif step.kind == LEAKY:
                changes[step.sources[0]].append(change * slopes[index])
            elif step.kind == CONCAT:
                sizes = [values[source].shape[1] for source in step.sources]
                for source, part in zip(step.sources, tf.split(change, sizes, axis=1)):
                    changes[source].append(part)
            elif step.kind == GRAM:
                matrix, bones = self.grams[step.index], slopes[index]
                change = tf.reshape(change, [-1, matrix.shape[0], matrix.shape[0]])
                through = tf.matmul(change + tf.linalg.matrix_transpose(change), bones)
                changes[step.sources[0]].append(_flat(tf.matmul(matrix, through, transpose_a=True)))
        return [changes[index] for index in wanted]

    def _forward(self, inputs):
        """Values of all steps, and what each is multiplied by, or the vectors of a "gram"."""
        values, slopes = [], []
        for step in self.steps:
            slope, given = None, [values[source] for source in step.sources]
            if step.kind == INPUT:
                value = _flat(inputs[step.index])
            elif step.kind == DENSE:
                value = tf.matmul(given[0], tf.convert_to_tensor(self.kernels[step.index]))
                if step.bias:
                    value = tf.nn.bias_add(value, tf.convert_to_tensor(self.biases[step.bias - 1]))
            elif step.kind == LEAKY:
                slope = tf.where(given[0] > 0, tf.ones_like(given[0]), self.slopes[step.index])
                value = given[0] * slope
            elif step.kind == CONCAT:
                value = tf.concat(given, axis=1)
            else:
                matrix = self.grams[step.index]
                points = tf.reshape(given[0], [-1, matrix.shape[1], given[0].shape[1] // matrix.shape[1]])
                slope = tf.matmul(matrix, points)
                value = _flat(tf.matmul(slope, slope, transpose_b=True))
            values.append(value)
            slopes.append(slope)
        return values, slopes

    def encode(self, batch_mean, terms):
        """Everything but the numbers, as the compiled op reads it.

        Args:
            batch_mean: Whether gradients are averaged over the batch.
            terms: Indices of the steps whose gradients are penalised.

        Returns:
            List of integers.
        """
        lengths = [self.num_inputs, len(self.kernels), len(self.biases), len(self.grams)]
        numbers = [*lengths, int(batch_mean), len(self.steps)]
        for step in self.steps:
            numbers += [step.kind, step.index, step.bias, len(step.sources), *step.sources]
        return [*numbers, len(self.outputs), *self.outputs, len(terms), *terms]

    @classmethod
    def decode(cls, numbers, kernels, biases, slopes, grams):
        """Reverses `encode`; returns `(steps, batch_mean, terms)`."""
        numbers = iter(numbers)
        batch_mean, count = [next(numbers) for _ in range(6)][4:]
        steps = []
        for _ in range(count):
            kind, index, bias, length = (next(numbers) for _ in range(4))
            steps.append(Step(kind, index, tuple(next(numbers) for _ in range(length)), bias))
        outputs, terms = (tuple(next(numbers) for _ in range(next(numbers))) for _ in range(2))
        return cls(tuple(steps), outputs, kernels, biases, slopes, grams), bool(batch_mean), terms


def read_model(model, dtype):
    """Takes a model apart.

    Args:
        model: Anything.
        dtype: The type of its inputs.

    Returns:
        `PiecewiseLinear`, or None where `model` is no Keras model of dense layers, leaky rectifiers, concatenations and
        changes of shape that computes in this type.
    """
    if not isinstance(model, keras.Model) or not _calls_its_graph(model):
        return None
    try:
        return _Reader(model, tf.as_dtype(dtype).name).read()
    except (_Unknown, AttributeError, KeyError, IndexError):
        # What this version of Keras names otherwise is not recognised.
        return None


class _Unknown(Exception):
    """A layer of another kind."""


class _Reader:
    def __init__(self, model, dtype):
        self.model, self.dtype = model, dtype
        self.steps, self.found, self.slopes = [], {}, []
        self.kernels, self.biases = {}, {}  # id -> (index, variable): layers may occur twice

    def read(self):
        for index, tensor in enumerate(self.model.inputs):
            self.found[id(tensor)] = self._add(Step(INPUT, index))
        outputs = tuple(self._visit(tensor) for tensor in self.model.outputs)
        self._require(all(self.steps[output].kind != INPUT for output in outputs))
        kernels, biases = (tuple(variable for _, variable in kept.values()) for kept in (self.kernels, self.biases))
        return PiecewiseLinear(tuple(self.steps), outputs, kernels, biases, tuple(self.slopes))

    def _visit(self, tensor):
        if id(tensor) not in self.found:
            operation, node, _ = tensor._keras_history
            sources = operation._inbound_nodes[node].input_tensors
            self.found[id(tensor)] = self._translate(operation, sources, tensor)
        return self.found[id(tensor)]

    def _translate(self, operation, sources, result):
        given = tuple(self._visit(source) for source in sources)
        kind = type(operation)
        name = kind.__name__ if kind.__module__.split(".")[0] == "keras" else ""
        if name == "Dense":
            self._require(len(sources[0].shape) == 2 and _plain_dense(operation, self.dtype))
            kernel = self._keep(self.kernels, operation.kernel)
            bias = 0 if operation.bias is None else 1 + self._keep(self.biases, operation.bias)
            return self._bend(self._add(Step(DENSE, kernel, given, bias)), operation.activation)
        if name == "Activation":
            return self._bend(given[0], operation.activation)
        if name in ("LeakyReLU", "LeakyRelu"):
            return self._leaky(given[0], operation.negative_slope)
        if name == "ReLU":
            self._require(operation.max_value is None and not operation.threshold)
            return self._leaky(given[0], operation.negative_slope)
        if name == "Relu":
            return self._leaky(given[0], 0.0)
        if name in ("Flatten", "Reshape"):
            same = _size(sources[0]) == _size(result) and getattr(operation, "data_format", "") != "channels_first"
            self._require(same)
            return given[0]
        if name == "Concatenate":
            self._require(operation.axis in (-1, 1) and all(len(source.shape) == 2 for source in sources))
            return self._add(Step(CONCAT, 0, given))
        raise _Unknown

    def _bend(self, step, activation):
        if activation is keras.activations.linear:
            return step
        if activation is keras.activations.relu:
            return self._leaky(step, 0.0)
        self._require(activation is keras.activations.leaky_relu)
        return self._leaky(step, 0.2)

    def _leaky(self, step, slope):
        self._require(slope >= 0)
        self.slopes.append(float(np.float32(slope)))  # TensorFlow's layers hold it so, for all types
        return self._add(Step(LEAKY, len(self.slopes) - 1, (step,)))

    def _add(self, step):
        self.steps.append(step)
        return len(self.steps) - 1

    def _keep(self, kept, variable):
        return kept.setdefault(id(variable), (len(kept), variable))[0]

    def _require(self, condition):
        if not condition:
            raise _Unknown


def _calls_its_graph(model):
    owner = next(kind for kind in type(model).__mro__ if "call" in vars(kind))
    if owner.__module__.split(".")[0] != "keras" or owner.__name__ not in ("Functional", "Sequential"):
        return False
    # With names for inputs or outputs there is more than one way to call it.
    structure = getattr(model, "_inputs_struct", None)
    return bool(model.built and getattr(model, "inputs", None)) and not isinstance(structure, dict)


def _plain_dense(layer, dtype):
    adapted = getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None)
    return not adapted and layer.compute_dtype == layer.variable_dtype == dtype


def _size(tensor):
    """Numbers of a sample; samples stay what they are where it does."""
    rest = tensor.shape[1:]
    if tensor.shape[0] is not None or None in rest:
        raise _Unknown
    return int(np.prod(rest))


def _flat(tensor):
    return tf.reshape(tensor, [-1, tensor.shape[1:].num_elements()])
