"""What docs/serving.md says is there: options and their defaults, endpoints, files for other programs."""

import configparser
import re
import shlex
from argparse import ArgumentParser
from pathlib import Path

import pytest

from segue.commands import serve
from segue.serve import app
from segue.serve.endpoints import stream

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def parser() -> ArgumentParser:
    found = ArgumentParser()
    serve.arguments(found)
    return found


def block(kind: str) -> str:
    found = re.search(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def test_limits_have_their_defaults(parser: ArgumentParser) -> None:
    said = dict(re.findall(r"^\| `--([\w-]+)` \| ([\d,]+) \|", PAGE, re.MULTILINE))
    limits = {flag.removeprefix("--"): default for flag, _, default, _ in serve.LIMITS}
    assert {flag: float(value.replace(",", "")) for flag, value in said.items()}.items() <= limits.items()
    others = set(limits) - set(said)
    assert all(f"`--{flag}`" in PAGE for flag in others)


def test_help_says_that_messages_need_sound(parser: ArgumentParser) -> None:
    said = re.sub(r"\s+", " ", parser.format_help())
    assert "a WebSocket with no messages, or no sound, for so long is closed" in said


def test_options_on_the_page_exist(parser: ArgumentParser) -> None:
    own = PAGE.partition("## Docker")[0]
    known = {option for action in parser._actions for option in action.option_strings}
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]+", own)) <= known


def test_endpoints_are_those_of_the_server() -> None:
    said = set(re.findall(r"`(?:GET|POST|WS) (/[\w/]+?)(?:/NAME)?`", PAGE.partition("## Speech")[0]))
    known = {each.path.removesuffix("/{model}") for each in app.ENDPOINTS} | {stream.PATH, "/openapi.json", "/docs"}
    assert said == {path for path in known if "." not in path}


def test_commands_of_other_programs_files_parse(parser: ArgumentParser) -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(block("ini"))
    command = shlex.split(unit["Service"]["ExecStart"])
    assert command[1] == "serve"
    parser.parse_args(command[2:])
    assert int(unit["Service"]["TimeoutStopSec"]) > parser.get_default("grace_seconds")
    yaml = pytest.importorskip("yaml")
    deployment, service = yaml.safe_load_all(block("yaml"))
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    parser.parse_args(container["args"])
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > parser.get_default("grace_seconds")
    assert service["spec"]["ports"][0]["targetPort"] == container["ports"][0]["containerPort"]
    paths = {container[f"{each}Probe"]["httpGet"]["path"] for each in ("startup", "readiness", "liveness")}
    assert paths <= {each.path for each in app.ENDPOINTS if each.is_open}
    words = re.findall(r"^(?:ENTRYPOINT|CMD) (\[.*\])", block("dockerfile"), re.MULTILINE)
    entry, rest = (yaml.safe_load(each) for each in words)
    assert entry == ["segue", "serve"]
    parser.parse_args(rest)
