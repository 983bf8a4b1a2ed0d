"""Learning rates of their own for some variables, and optimizers of their own.

`multi_rate` turns a Keras optimizer into the same one with a multiplier of the learning rate for each variable: a
backbone that learns slowly, biases that learn twice as fast. `MultiOptimizer` gives groups of variables to different
optimizers. Both are ordinary Keras optimizers: for `compile`, schedules, loss scaling, distribution and saving. A
`.keras` model that was compiled with one needs `import posekit.training.optimizers` before it is loaded.

Variables are chosen by regular expressions, searched for in the variable's path, such as `backbone/conv1_conv/kernel`.
"""

import collections.abc
import re

import keras
from keras import ops


def multi_rate(optimizer, multipliers):
    """Gives variables learning rates of their own.

    A decoupled weight decay is multiplied as well. A multiplier of 0 freezes a variable, whatever its gradient.

    Args:
        optimizer: `SGD`, `Adam`, `AdamW` or `RMSprop` of Keras that was not used yet. Its learning rate may be a
            schedule.
        multipliers: Dict of regular expression to factor of the learning rate, or pairs of the same, whose first may
            also be a variable. The first that matches a variable's path counts; variables that none matches have 1.

    Returns:
        An optimizer of a subclass (`MultiRateSGD`, …) with the same settings.

    Raises:
        ValueError: If the optimizer is of another kind, was used, or a multiplier is negative or not finite; when
            training starts, if an expression matches no variable.

    Example:
        >>> optimizer = multi_rate(keras.optimizers.Adam(1e-4), {"backbone/": 0.1, "/bias$": 2.0})
        >>> optimizer.multipliers
        {'backbone/': 0.1, '/bias$': 2.0}

    Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation training/optimizers.py:MultiSGD.
    """
    kind = _MULTI_RATE_KINDS.get(type(optimizer))
    if kind is None:
        known = ", ".join(base.__name__ for base in _MULTI_RATE_KINDS)
        raise ValueError(f"multi_rate knows {known} of keras.optimizers, not {type(optimizer).__name__}.")
    if optimizer.built or hasattr(optimizer, "_exclude_from_weight_decay"):
        raise ValueError(
            f"{optimizer.name} was used or has variables excluded from weight decay. Give multi_rate a new optimizer, "
            "and call exclude_from_weight_decay on what it returns."
        )
    return kind.from_config({**optimizer.get_config(), "multipliers": _multiplier_table(multipliers)})


class _MultiRate:
    """Mixed into an optimizer class: the learning rate of a variable times the multiplier of its path."""

    def __init__(self, *args, multipliers=None, **kwargs):
        super().__init__(*args, **kwargs)
        self._multipliers = tuple(_multiplier_table(multipliers or {}).items())

    @property
    def multipliers(self):
        """Dict of regular expression to factor."""
        return dict(self._multipliers)

    def build(self, variables):
        if self.built:
            return
        chosen = _first_matches([pattern for pattern, _ in self._multipliers], variables)
        self._factors = tuple(1.0 if index is None else self._multipliers[index][1] for index in chosen)
        super().build(variables)

    def update_step(self, gradient, variable, learning_rate):
        factor = self._factors[self._get_variable_index(variable)]
        if factor == 1:
            super().update_step(gradient, variable, learning_rate)
        elif factor:
            super().update_step(gradient, variable, ops.multiply(learning_rate, factor))

    def _apply_weight_decay(self, variables):
        if self.weight_decay is None:
            return
        decay, groups = self.weight_decay, {}
        for variable in variables:
            groups.setdefault(self._factors[self._get_variable_index(variable)], []).append(variable)
        try:
            for factor, group in groups.items():
                self.weight_decay = decay * factor
                super()._apply_weight_decay(group if factor else [])
        finally:
            self.weight_decay = decay

    def get_config(self):
        return {**super().get_config(), "multipliers": self.multipliers}


@keras.saving.register_keras_serializable(package="posekit")
class MultiRateSGD(_MultiRate, keras.optimizers.SGD):
    """`keras.optimizers.SGD` with `multipliers`; see `multi_rate`."""


@keras.saving.register_keras_serializable(package="posekit")
class MultiRateAdam(_MultiRate, keras.optimizers.Adam):
    """`keras.optimizers.Adam` with `multipliers`; see `multi_rate`."""


@keras.saving.register_keras_serializable(package="posekit")
class MultiRateAdamW(_MultiRate, keras.optimizers.AdamW):
    """`keras.optimizers.AdamW` with `multipliers`; see `multi_rate`."""


@keras.saving.register_keras_serializable(package="posekit")
class MultiRateRMSprop(_MultiRate, keras.optimizers.RMSprop):
    """`keras.optimizers.RMSprop` with `multipliers`; see `multi_rate`."""


_MULTI_RATE_KINDS = {kind.__mro__[2]: kind for kind in (MultiRateSGD, MultiRateAdam, MultiRateAdamW, MultiRateRMSprop)}


@keras.saving.register_keras_serializable(package="posekit")
class MultiOptimizer(keras.optimizers.Optimizer):
    """Several optimizers, each for some of the variables.

    Args:
        optimizers: Dict of regular expression to optimizer, or pairs of the same, whose first may also be a variable.
            The first that matches a variable's path counts; one optimizer may stand at several. Variables that none
            matches stay as they are.
        name: Name of the optimizer.

    Raises:
        ValueError: If there is no optimizer, or one scales losses itself; when training starts, if an expression
            matches no variable.

    Example:
        >>> optimizer = MultiOptimizer({"backbone/": keras.optimizers.SGD(1e-3), "": keras.optimizers.Adam(1e-4)})

    Follows: tensorflow/addons tensorflow_addons/optimizers/discriminative_layer_training.py:MultiOptimizer.
    Differs: variables are chosen by path, not by layer.
    """

    def __init__(self, optimizers, name=None):
        super().__init__(learning_rate=0.0, name=name)
        patterns, owners = zip(*_pairs(optimizers)) if optimizers else ((), ())
        if not owners:
            raise ValueError("MultiOptimizer needs at least one optimizer.")
        for optimizer in owners:
            if not isinstance(optimizer, keras.optimizers.Optimizer):
                raise ValueError(f"MultiOptimizer holds Keras optimizers, not a {type(optimizer).__name__}.")
            if optimizer.loss_scale_factor or isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
                raise ValueError(f"{optimizer.name} scales losses; wrap MultiOptimizer in LossScaleOptimizer instead.")
        distinct = list({id(optimizer): optimizer for optimizer in owners}.values())
        self._patterns = patterns
        self._owners = tuple(distinct.index(optimizer) for optimizer in owners)
        self.optimizers = distinct

    def build(self, variables):
        """Gives every optimizer its variables.

        Args:
            variables: All variables that are trained.
        """
        if self.built:
            return
        chosen = _first_matches(self._patterns, variables)
        self._owner_of = tuple(None if index is None else self._owners[index] for index in chosen)
        super().build(variables)
        for optimizer, own in zip(self.optimizers, self._split(variables, variables)):
            if own:
                optimizer.build([variable for _, variable in own])

    def apply(self, grads, trainable_variables=None):
        """Updates every variable with its optimizer.

        Args:
            grads: Gradients; None leaves a variable as it is.
            trainable_variables: Variables in the same order; those that the optimizer was built with if not given.
        """
        if not self.built:
            if trainable_variables is None:
                raise ValueError("This optimizer knows no variables yet; give them, or call build(variables) first.")
            self.build(list(trainable_variables))
        variables = list(self._trainable_variables if trainable_variables is None else trainable_variables)
        if len(grads) != len(variables):
            raise ValueError(f"There are {len(grads)} gradients for {len(variables)} variables.")
        for optimizer, own in zip(self.optimizers, self._split(grads, variables)):
            if any(gradient is not None for gradient, _ in own):
                optimizer.apply(*zip(*own))
        self._iterations.assign_add(1)

    def finalize_variable_values(self, var_list):
        """Puts averaged weights into the variables of the optimizers that keep averages.

        Args:
            var_list: Variables that were trained.
        """
        for optimizer, own in zip(self.optimizers, self._split(var_list, var_list)):
            if own:
                optimizer.finalize_variable_values([variable for _, variable in own])

    @property
    def variables(self):
        """State of this and of all its optimizers."""
        return self._variables[:] + [variable for optimizer in self.optimizers for variable in optimizer.variables]

    @property
    def learning_rate(self):
        """Learning rate of the first optimizer; each is set on its own, in `optimizers`."""
        return self.optimizers[0].learning_rate

    @learning_rate.setter
    def learning_rate(self, value):
        raise AttributeError("MultiOptimizer has several learning rates; set those of its `optimizers`.")

    def get_config(self):
        """Returns name and optimizers, for `from_config`."""
        return {
            "name": self.name,
            "patterns": list(self._patterns),
            "owners": list(self._owners),
            "optimizers": [keras.saving.serialize_keras_object(optimizer) for optimizer in self.optimizers],
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Makes the optimizer that `get_config` described.

        Args:
            config: What `get_config` returned.
            custom_objects: Classes that Keras does not know.

        Returns:
            A `MultiOptimizer` without state.
        """
        inner = config["optimizers"]
        optimizers = [keras.saving.deserialize_keras_object(one, custom_objects=custom_objects) for one in inner]
        pairs = [(pattern, optimizers[owner]) for pattern, owner in zip(config["patterns"], config["owners"])]
        return cls(pairs, name=config["name"])

    def _split(self, values, variables):
        """One list of `(value, variable)` for each optimizer."""
        groups = [[] for _ in self.optimizers]
        for value, variable in zip(values, variables):
            owner = self._owner_of[self._get_variable_index(variable)]
            if owner is not None:
                groups[owner].append((value, variable))
        return groups


def _path(variable):
    return getattr(variable, "path", None) or variable.name


def _pattern(key):
    """A regular expression as it is; for a variable the one that only its path matches."""
    if not isinstance(key, str):
        return f"^{re.escape(_path(key))}$"
    try:
        re.compile(key)
    except re.error as error:
        raise ValueError(f"{key!r} is no regular expression: {error}.") from error
    return key


def _pairs(table):
    """`(regular expression, value)` for each entry of a dict or of a list of pairs."""
    items = table.items() if isinstance(table, collections.abc.Mapping) else table
    return [(_pattern(key), value) for key, value in items]


def _multiplier_table(multipliers):
    table = {pattern: float(factor) for pattern, factor in _pairs(multipliers)}
    for pattern, factor in table.items():
        if not 0 <= factor < float("inf"):
            raise ValueError(f"The multiplier of {pattern!r} is {factor}; it must be 0 or more, and finite.")
    return table


def _first_matches(patterns, variables):
    """Index of the first pattern that each variable's path matches, None where none does."""
    paths = [_path(variable) for variable in variables]
    for pattern in patterns:
        if not any(re.search(pattern, path) for path in paths):
            shown = ", ".join(paths[:10]) + (", …" if len(paths) > 10 else "")
            raise ValueError(f"No trained variable's path matches {pattern!r}; there are {shown}.")
    return [next((i for i, pattern in enumerate(patterns) if re.search(pattern, path)), None) for path in paths]
