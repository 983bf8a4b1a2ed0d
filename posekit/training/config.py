"""Configuration: a frozen dataclass per system, the command-line flags generated from it, and its JSON file.

The dataclass is the truth. `option` declares a field with its default, help and limits; `parse` makes absl flags
from the fields, reads a run folder's `config.json` where one is named, and lets explicit flags override it.
"""

import contextlib
import dataclasses
import difflib
import importlib
import json
import math
import numbers
import os
import pathlib
import sys

from absl import flags

from posekit.files import regular_file, write_file

_LIST = tuple[str, ...]
_MAX_CONFIG_BYTES = 1 << 20


# What TensorFlow and NumPy take for a seed, and more than any other count can mean.
_LARGEST_INT = 2**32 - 1


def option(default, help, *, choices=None, lower=None, upper=None, aliases=(), architecture=False, training=False):
    """Declares one field of a configuration.

    Numbers must be finite, and whole numbers at most 4294967295 where there is no other limit.

    Args:
        default: Default value.
        help: One line for `--help`.
        choices: Allowed values, for strings.
        lower: Smallest allowed number; of a list, whose items must then be numbers, of each.
        upper: Largest allowed number; the same.
        aliases: Other spellings of the flag, such as those of the original code base.
        architecture: Whether trained weights depend on the value, which then can only be chosen when training begins.
        training: Whether the value matters while training only; the help of other commands leaves it out.

    Returns:
        A dataclass field.
    """
    metadata = dict(
        help=help, choices=choices, lower=lower, upper=upper, aliases=aliases, architecture=architecture,
        training=training,
    )  # fmt: skip
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Options:
    """Base of every set of options: checks values against the limits of their fields.

    Raises:
        ValueError: If a value is outside the limits of its field.
    """

    def __post_init__(self):
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))

    def replace(self, **changes):
        """Returns a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self):
        """Returns the fields as JSON-ready values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, values):
        """Makes options from JSON values.

        Args:
            values: Dict of field values; missing fields take their defaults. Lists may also be written as on the
                command line, such as `"0.5,1"`, and hold numbers where their items are numbers.

        Raises:
            ValueError: If a key is unknown or a value has the wrong type or is outside its limits.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(fields))
        if unknown:
            raise ValueError(f"Unknown options {unknown}{_nearest(cls, unknown)}")
        return cls(**{name: _cast(fields[name], value) for name, value in values.items()})


def save_config(path, system, config):
    """Writes a system's configuration as JSON, atomically.

    Args:
        path: File to write.
        system: Name of the system, such as `"hmr"`.
        config: Its `Options`.
    """
    write_file(path, json_text({"model": system, **config.to_dict()}).encode())


def load_config(path):
    """Reads a configuration file.

    Args:
        path: File written by `save_config`.

    Returns:
        `(system name, dict of options)`.

    Raises:
        ValueError: If the file is not such a configuration.
    """
    try:
        if (size := regular_file(path).stat().st_size) > _MAX_CONFIG_BYTES:
            raise ValueError(f"it has {size} bytes, more than {_MAX_CONFIG_BYTES}")
        values = json.loads(pathlib.Path(path).read_text())
        if not isinstance(values, dict) or not isinstance(values.get("model"), str):
            raise ValueError("it does not say which model it is of")
        return values.pop("model"), values
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a posekit configuration ({error}); train again or restore the file.") from None


def json_text(content):
    """Writes values as strict JSON, which has no NaN and no infinity: null stands for them.

    Args:
        content: Dicts with texts as keys, lists, tuples, texts, numbers, booleans and None.

    Returns:
        Text of several lines.
    """
    return json.dumps(_only_finite(content), indent=2, allow_nan=False) + "\n"


def _only_finite(content):
    if isinstance(content, dict):
        return {name: _only_finite(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_only_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


class UsageError(ValueError):
    """A command line that cannot be understood; commands print it without a traceback."""


def import_tensorflow_quietly():
    """Imports TensorFlow without the lines that it writes to the terminal whatever its log level is.

    A failure to import still raises. Where `TF_CPP_MIN_LOG_LEVEL` is set to less than 3, nothing is hidden.
    """
    # `posekit` sets it to 3 where the user has not: errors reach the user as exceptions.
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "3":
        return
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        importlib.import_module("tensorflow")
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def run_command(program, systems, command, run, argv=None, stored=None):
    """Body of every command: parses, runs, and turns errors into messages.

    Args:
        program: Name to print before an error.
        systems: As for `parse`.
        command: As for `parse`.
        run: Function `(system name, module, config, options, positional arguments) -> exit status`.
        argv: Arguments; those of the process by default.
        stored: As for `parse`.

    Returns:
        Exit status: that of `run`; 1 after an error, 2 after a usage error, 130 after Ctrl-C.
    """
    try:
        name = program.removeprefix("posekit.")
        return run(*parse(sys.argv[1:] if argv is None else list(argv), systems, command, stored, name))
    except UsageError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except MemoryError as error:
        print(f"{program}: Not enough memory ({error}); lower --batch_size or --image_size.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130


def no_more(arguments):
    """Refuses positional arguments.

    Args:
        arguments: What is left of the command line.

    Raises:
        UsageError: If anything is left.
    """
    if arguments:
        raise UsageError(f"Unexpected arguments {arguments}; options are written --name=value. See --help.")


def stored_in_run(options, name):
    """Reads the configuration of the run folder that a command names.

    Args:
        options: The command's options, with `run_dir`.
        name: System name.

    Returns:
        Dict of options, empty if there is no such run yet.

    Raises:
        ValueError: If the run belongs to another system.
    """
    path = pathlib.Path(options.run_dir) / "config.json" if options.run_dir else None
    if path is None or not path.exists():
        return {}
    system, values = load_config(path)
    if system != name:
        raise ValueError(f"{path} belongs to --model={system}, not to --model={name}.")
    return values


def parse(argv, systems, command, stored=None, command_name=""):
    """Reads a command line into a system, its configuration and the command's own options.

    Args:
        argv: Arguments after the program name; `--mask-type` is read as `--mask_type`.
        systems: Dict from system name to a function that returns the system's module.
        command: `Options` class of the command itself.
        stored: Function `(command options, system name) -> dict` that reads the configuration which explicit flags
            override; the defaults where None.
        command_name: Name of the command, such as `"validate"`. Where the system's module has further options for it,
            in a dict `OPTIONS` from command name to `Options` class, they are parsed with the command's.

    Returns:
        `(system name, system module, config, command options, positional arguments)`.

    Raises:
        UsageError: If a flag is unknown or a value is not allowed.
    """
    argv = _with_underscores(argv)
    name = _prescan(argv, "model") or _model_of_run(_prescan(argv, "run_dir", "model_dir", "checkpoint_dir")) or "hmr"
    if name not in systems:
        raise UsageError(f"--model={name} is not a system; choose one of {', '.join(systems)}.")
    module = systems[name]()
    further = getattr(module, "OPTIONS", {}).get(command_name)
    if further:
        command = dataclasses.make_dataclass(
            command.__name__, (), bases=(further, command), frozen=True, namespace={"__doc__": command.__doc__}
        )
    values = flags.FlagValues()
    flags.DEFINE_string("model", name, f"system: {', '.join(systems)}", flag_values=values)
    flags.DEFINE_bool("help", False, "show this help", short_name="h", flag_values=values)
    taken = _define(command, values, set())
    _define(module.Config, values, taken)
    try:
        positional = values([sys.argv[0], *argv])[1:]
    except flags.Error as error:
        raise UsageError(_with_suggestion(str(error), values)) from None
    if values["help"].value:
        print(_help(command, module.Config, name, systems, command_name))
        sys.exit(0)
    try:
        options = command(**_explicit(command, values))
        kept = stored(options, name) if stored else {}
        _check_stored(module.Config, options, kept)
        # What a system fills in for itself depends on all of them, so that it is made of all at once.
        config = module.Config.from_dict({**kept, **_explicit(module.Config, values, skip=_names(command))})
    except ValueError as error:
        raise UsageError(str(error)) from None
    return name, module, config, options, positional


def _check_stored(config, options, values):
    try:
        config.from_dict(values)
    except ValueError as error:
        where = getattr(options, "reference", None) or getattr(options, "run_dir", "")
        raise ValueError(f"The config.json of {where} cannot be used: {error} Restore it, or train again.") from None


def architecture(config):
    """Picks the options on which trained weights depend.

    Args:
        config: `Options` of a system.

    Returns:
        Dict of JSON-ready values.
    """
    values = config.to_dict()
    return {field.name: values[field.name] for field in dataclasses.fields(config) if field.metadata["architecture"]}


def changed_architecture(old, new):
    """Lists the fields on which trained weights depend and that differ between two configurations.

    Args:
        old: `Options` of the checkpoint.
        new: `Options` asked for.

    Returns:
        Strings `name: old -> new`.
    """
    return [
        f"{field.name}: {getattr(old, field.name)!r} -> {getattr(new, field.name)!r}"
        for field in dataclasses.fields(new)
        if field.metadata["architecture"] and getattr(old, field.name) != getattr(new, field.name)
    ]


def _names(options):
    return {field.name for field in dataclasses.fields(options)}


def _model_of_run(run_dir):
    path = pathlib.Path(run_dir) / "config.json" if run_dir else None
    return load_config(path)[0] if path and path.exists() else None


def _with_underscores(argv):
    """Flags may be written with dashes, as argparse has them."""
    end = argv.index("--") if "--" in argv else len(argv)
    return [_with_underscore(argument) for argument in argv[:end]] + argv[end:]


def _with_underscore(argument):
    flag, equals, value = argument.partition("=")
    return "--" + flag[2:].replace("-", "_") + equals + value if flag.startswith("--") else argument


def further_options(module, command_name, options):
    """Picks a system's further options out of a command's.

    Args:
        module: System module.
        command_name: Name of the command.
        options: The command's parsed options.

    Returns:
        Dict of the options that only this system has for this command.
    """
    further = getattr(module, "OPTIONS", {}).get(command_name)
    return {field.name: getattr(options, field.name) for field in dataclasses.fields(further)} if further else {}


def _prescan(argv, *names):
    """Finds the value of a flag before the flags are defined, since the flags depend on it."""
    for position, argument in enumerate(argv):
        flag, _, value = argument.lstrip("-").partition("=")
        if argument == "--":
            break
        if argument.startswith("-") and flag in names:
            return value or (argv[position + 1] if position + 1 < len(argv) else "")
    return None


def _define(options, values, taken):
    for field in dataclasses.fields(options):
        if field.name in taken:
            continue
        kind, metadata, default = field.type, field.metadata, field.default
        if metadata["choices"] and kind is str:
            flags.DEFINE_enum(field.name, default, list(metadata["choices"]), metadata["help"], flag_values=values)
        else:
            define = {int: flags.DEFINE_integer, float: flags.DEFINE_float, bool: flags.DEFINE_bool,
                      str: flags.DEFINE_string, _LIST: flags.DEFINE_list}[kind]  # fmt: skip
            value = ",".join(default) if kind == _LIST else default
            define(field.name, value, metadata["help"], flag_values=values)
        for alias in metadata["aliases"]:
            flags.DEFINE_alias(alias, field.name, flag_values=values)
    return taken | _names(options)


def _explicit(options, values, skip=()):
    chosen = {}
    for field in dataclasses.fields(options):
        spellings = (field.name, *field.metadata["aliases"])
        if field.name not in skip and any(values[spelling].present for spelling in spellings):
            chosen[field.name] = _cast(field, values[field.name].value)
    return chosen


def _cast(field, value):
    kind = field.type
    if kind == _LIST:
        return _cast_list(field, value)
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            return float(value)
    elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise ValueError(f"{field.name}={_short(repr(value))} is not a {kind.__name__}.")


def _cast_list(field, value):
    """A tuple of texts: of a list, or of the command line's spelling; of numbers only where the items are numbers."""
    numeric = _is_limited(field)
    allowed = (str, numbers.Real) if numeric else str
    items = value.split(",") if isinstance(value, str) else value
    items = [items] if isinstance(items, allowed) and not isinstance(items, (str, bool)) else items
    if isinstance(items, (list, tuple)) and all(isinstance(i, allowed) and not isinstance(i, bool) for i in items):
        texts = [str(item).strip() for item in items]
        return tuple(text for text in texts if text)
    wanted = "list of numbers, such as (0.5, 1) or '0.5,1'" if numeric else "list of names, such as ('a', 'b') or 'a,b'"
    raise ValueError(f"{field.name}={_short(repr(value))} is not a {wanted}.")


def _is_limited(field):
    return field.metadata["lower"] is not None or field.metadata["upper"] is not None


def _nearest(options, unknown):
    """The end of a message about unknown options: those that may have been meant."""
    spellings = {field.name: field.name for field in dataclasses.fields(options)}
    for field in dataclasses.fields(options):
        spellings |= dict.fromkeys(field.metadata["aliases"], field.name)
    near = [match for name in unknown for match in difflib.get_close_matches(str(name), list(spellings), n=3)]
    # The original's spellings are those of the command line alone.
    meant = dict.fromkeys(spellings[name] for name in near)
    hint = f"; did you mean {' or '.join(map(repr, meant))}?" if meant else "."
    return hint + " All of them: python -m posekit.train --model=… --help"


def _check(field, value):
    metadata, limited = field.metadata, _is_limited(field)
    for item in value if isinstance(value, tuple) else (value,):
        if metadata["choices"] and item not in metadata["choices"]:
            choices = ", ".join(metadata["choices"])
            raise ValueError(f"--{field.name}={_short(item)} is not allowed; choose from {choices}.")
        if field.type in (int, float) or limited:
            _check_number(field, item)


def _check_number(field, value):
    lower, upper = field.metadata["lower"], field.metadata["upper"]
    if upper is None and field.type is int:
        upper = _LARGEST_INT
    given = f"--{field.name}={_short(value)}"
    try:
        number = value if field.type is int else float(value)
    except (ValueError, OverflowError):
        raise ValueError(f"{given} must be numbers separated by commas.") from None
    if field.type is not int and not math.isfinite(number):
        raise ValueError(f"{given} is not a finite number; the default is {_shown_default(field)}.")
    if lower is not None and not number >= lower:
        raise ValueError(f"{given} is too small; the smallest allowed value is {lower}.")
    if upper is not None and not number <= upper:
        raise ValueError(f"{given} is too large; the largest allowed value is {upper}.")


def _short(value):
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


_SHOWN = 40


def _shown_default(field):
    return ",".join(field.default) if isinstance(field.default, tuple) else field.default


def _with_suggestion(message, values):
    if "Unknown command line flag" in message:
        name = message.split("'")[1]
        near = difflib.get_close_matches(name, list(values), n=3)
        hint = f" Did you mean {' or '.join('--' + flag for flag in near)}?" if near else ""
        return f"Unknown flag --{name}.{hint} See --help."
    return message


def _help(command, config, name, systems, command_name):
    others = " or ".join(f"--model={other}" for other in systems if other != name)
    lines = [(command.__doc__ or "").strip(), "", f"  --model: system, one of {', '.join(systems)} (now {name})"]
    lines += [f"      Options of the others: add {others} to --help."] if others else []
    if command_name in _OF_TRAINED_MODELS:
        lines.append(f"      Options of training only: python -m posekit.train --model={name} --help")
    taken = set()
    for title, options in (("options of this command", command), (f"options of {name}", config)):
        lines += ["", f"{title}:"]
        shown = [field for field in dataclasses.fields(options) if field.name not in taken]
        if command_name in _OF_TRAINED_MODELS:
            shown = [field for field in shown if not field.metadata["training"]]
        lines += map(help_line, shown)
        taken |= _names(options)
    return "\n".join(lines)


_OF_TRAINED_MODELS = ("validate", "preview", "predict", "export", "convert_checkpoint")


def help_line(field):
    """Tells about one option, as `--help` does.

    Args:
        field: Dataclass field made by `option`.

    Returns:
        Text of two lines.
    """
    metadata, shown = field.metadata, _shown_default(field)
    also = f" [also {', '.join('--' + alias for alias in metadata['aliases'])}]" if metadata["aliases"] else ""
    choices = f" ({'|'.join(filter(None, metadata['choices']))})" if metadata["choices"] else ""
    prefix = "--[no]" if field.type is bool else "--"
    return f"  {prefix}{field.name}: {metadata['help']}{choices}{also}\n      (default: {shown!r})"
