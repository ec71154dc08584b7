"""CI and SLURM jobs: what becomes tags, and what the job's page shows afterwards.

The variables are those of the providers' documentation, with values as they are in real jobs.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from tests.conftest import RunPython
from tests.delivery.programs import LOG
from tracelet_shim.bus.messages import BackendState
from tracelet_shim.provenance import ci

pytestmark = pytest.mark.usefixtures("mlflow_store")

HEAD, MERGE = "1" * 40, "f" * 40

GITHUB = {
    "GITHUB_ACTIONS": "true", "GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "lab/nets",
    "GITHUB_RUN_ID": "99", "GITHUB_RUN_ATTEMPT": "2", "GITHUB_ACTOR": "ada",
}  # fmt: skip
GITHUB_JOB = {
    "ci.provider": "github", "ci.actor": "ada", "ci.job_url": "https://github.com/lab/nets/actions/runs/99/attempts/2"
}  # fmt: skip
GITLAB = {
    "GITLAB_CI": "true", "CI_COMMIT_SHA": HEAD, "CI_JOB_URL": "https://gitlab.com/lab/nets/-/jobs/5",
    "GITLAB_USER_LOGIN": "ada", "CI_COMMIT_REF_NAME": "feature/x",
}  # fmt: skip
GITLAB_JOB = {"ci.provider": "gitlab", "ci.actor": "ada", "ci.job_url": "https://gitlab.com/lab/nets/-/jobs/5"}
JENKINS = {"JENKINS_URL": "https://ci.example/", "BUILD_URL": "https://ci.example/job/nets/7/", "GIT_COMMIT": HEAD}
JENKINS_JOB = {"ci.provider": "jenkins", "ci.job_url": "https://ci.example/job/nets/7/", "git.commit": HEAD}
BUILDKITE = {
    "BUILDKITE": "true", "BUILDKITE_COMMIT": HEAD, "BUILDKITE_BRANCH": "feature/x", "BUILDKITE_PULL_REQUEST": "false",
    "BUILDKITE_BUILD_URL": "https://buildkite.com/lab/nets/builds/3", "BUILDKITE_JOB_ID": "0190", "BUILDKITE_TAG": "",
    "BUILDKITE_BUILD_CREATOR": "Ada",
}  # fmt: skip
BUILDKITE_JOB = {
    "ci.provider": "buildkite", "ci.actor": "Ada", "ci.job_url": "https://buildkite.com/lab/nets/builds/3#0190",
}  # fmt: skip
CIRCLECI = {
    "CIRCLECI": "true", "CIRCLE_SHA1": HEAD, "CIRCLE_BRANCH": "feature/x", "CIRCLE_USERNAME": "ada",
    "CIRCLE_BUILD_URL": "https://circleci.com/gh/lab/nets/12",
}  # fmt: skip
CIRCLECI_JOB = {
    "ci.provider": "circleci", "ci.actor": "ada", "ci.job_url": "https://circleci.com/gh/lab/nets/12", "git.commit": HEAD,
}  # fmt: skip
AZURE = {
    "TF_BUILD": "True", "SYSTEM_COLLECTIONURI": "https://dev.azure.com/lab/", "SYSTEM_TEAMPROJECT": "big nets",
    "BUILD_BUILDID": "8", "SYSTEM_JOBID": "12f1", "BUILD_REQUESTEDFOR": "Ada L", "BUILD_SOURCEVERSION": HEAD,
    "BUILD_SOURCEBRANCH": "refs/heads/feature/x", "BUILD_SOURCEBRANCHNAME": "x",
}  # fmt: skip
AZURE_JOB = {
    "ci.provider": "azure", "ci.actor": "Ada L",
    "ci.job_url": "https://dev.azure.com/lab/big%20nets/_build/results?buildId=8&view=logs&j=12f1",
}  # fmt: skip
BRANCH = {"git.commit": HEAD, "git.branch": "feature/x"}
MERGED = {**BRANCH, "ci.pull_request": "7", "ci.merge_commit": MERGE}

JOBS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "none": ({"CI": "true"}, {}),
    "github push": (
        GITHUB | {"GITHUB_EVENT_NAME": "push", "GITHUB_REF": "refs/heads/feature/x", "GITHUB_SHA": HEAD, "GITHUB_HEAD_REF": ""},
        GITHUB_JOB | BRANCH,
    ),
    "github tag": (
        GITHUB | {"GITHUB_EVENT_NAME": "push", "GITHUB_REF": "refs/tags/v1", "GITHUB_SHA": HEAD},
        GITHUB_JOB | {"git.commit": HEAD, "git.tag": "v1"},
    ),
    "github pull request": (
        GITHUB | {
            "GITHUB_EVENT_NAME": "pull_request", "GITHUB_REF": "refs/pull/7/merge", "GITHUB_REF_NAME": "7/merge",
            "GITHUB_SHA": MERGE, "GITHUB_HEAD_REF": "feature/x", "GITHUB_BASE_REF": "main", "GITHUB_EVENT_PATH": "event.json",
        },
        GITHUB_JOB | MERGED,
    ),
    "github review": (
        GITHUB | {
            "GITHUB_EVENT_NAME": "pull_request_review", "GITHUB_REF": "refs/pull/7/merge", "GITHUB_SHA": MERGE,
            "GITHUB_EVENT_PATH": "event.json",
        },
        GITHUB_JOB | MERGED,
    ),
    "github pull request without its event": (
        GITHUB | {
            "GITHUB_EVENT_NAME": "pull_request", "GITHUB_REF": "refs/pull/7/merge", "GITHUB_SHA": MERGE,
            "GITHUB_HEAD_REF": "feature/x", "GITHUB_EVENT_PATH": "no such file",
        },
        GITHUB_JOB | {"git.commit": MERGE, "git.branch": "feature/x", "ci.pull_request": "7"},
    ),
    "github pull request, base": (
        GITHUB | {
            "GITHUB_EVENT_NAME": "pull_request_target", "GITHUB_REF": "refs/heads/main", "GITHUB_SHA": MERGE,
            "GITHUB_HEAD_REF": "feature/x", "GITHUB_EVENT_PATH": "event.json",
        },
        GITHUB_JOB | {"git.commit": MERGE, "git.branch": "main", "ci.pull_request": "7"},
    ),
    "gitlab push": (GITLAB | {"CI_COMMIT_BRANCH": "feature/x"}, GITLAB_JOB | BRANCH),
    "gitlab tag": (GITLAB | {"CI_COMMIT_TAG": "v1", "CI_COMMIT_REF_NAME": "v1"},
                   GITLAB_JOB | {"git.commit": HEAD, "git.tag": "v1"}),
    "gitlab merge request": (
        GITLAB | {
            "CI_MERGE_REQUEST_IID": "7", "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": "feature/x",
            "CI_COMMIT_REF_NAME": "refs/merge-requests/7/head", "CI_MERGE_REQUEST_SOURCE_BRANCH_SHA": "",
        },
        GITLAB_JOB | BRANCH | {"ci.pull_request": "7"},
    ),
    "gitlab merged results": (
        GITLAB | {
            "CI_MERGE_REQUEST_IID": "7", "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": "feature/x",
            "CI_COMMIT_REF_NAME": "refs/merge-requests/7/merge", "CI_COMMIT_SHA": MERGE,
            "CI_MERGE_REQUEST_SOURCE_BRANCH_SHA": HEAD,
        },
        GITLAB_JOB | MERGED,
    ),
    "gitlab pull request on GitHub": (
        GITLAB | {
            "CI_EXTERNAL_PULL_REQUEST_IID": "7", "CI_EXTERNAL_PULL_REQUEST_SOURCE_BRANCH_NAME": "feature/x",
            "CI_EXTERNAL_PULL_REQUEST_SOURCE_BRANCH_SHA": HEAD, "CI_COMMIT_BRANCH": "feature/x",
        },
        GITLAB_JOB | BRANCH | {"ci.pull_request": "7"},
    ),
    "jenkins push": (JENKINS | {"GIT_BRANCH": "origin/feature/x", "BUILD_USER_ID": "ada"},
                     JENKINS_JOB | {"git.branch": "feature/x", "ci.actor": "ada"}),
    "jenkins multibranch": (JENKINS | {"BRANCH_NAME": "feature/x", "GIT_BRANCH": "feature/x"},
                            JENKINS_JOB | {"git.branch": "feature/x"}),
    "jenkins pull request": (
        JENKINS | {
            "BRANCH_NAME": "PR-7", "GIT_BRANCH": "PR-7", "CHANGE_ID": "7", "CHANGE_BRANCH": "feature/x",
            "CHANGE_TARGET": "main", "CHANGE_AUTHOR": "ada",
        },
        JENKINS_JOB | {"git.branch": "feature/x", "ci.pull_request": "7", "ci.actor": "ada"},
    ),
    "buildkite push": (BUILDKITE, BUILDKITE_JOB | BRANCH),
    "buildkite pull request": (BUILDKITE | {"BUILDKITE_PULL_REQUEST": "7"}, BUILDKITE_JOB | BRANCH | {"ci.pull_request": "7"}),
    "buildkite, by hand": (BUILDKITE | {"BUILDKITE_COMMIT": "HEAD"}, BUILDKITE_JOB | {"git.branch": "feature/x"}),
    "circleci push": (CIRCLECI, CIRCLECI_JOB | BRANCH),
    "circleci pull request": (
        CIRCLECI | {"CIRCLE_PULL_REQUEST": "https://github.com/lab/nets/pull/7"},
        CIRCLECI_JOB | BRANCH | {"ci.pull_request": "7"},
    ),
    "circleci fork": (
        CIRCLECI | {"CIRCLE_PR_NUMBER": "7", "CIRCLE_BRANCH": "pull/7"}, CIRCLECI_JOB | {"ci.pull_request": "7"},
    ),
    "azure push": (AZURE, AZURE_JOB | BRANCH),
    "azure pull request": (
        AZURE | {
            "BUILD_SOURCEBRANCH": "refs/pull/7/merge", "BUILD_SOURCEVERSION": MERGE, "SYSTEM_PULLREQUEST_PULLREQUESTID": "7",
            "SYSTEM_PULLREQUEST_SOURCEBRANCH": "refs/heads/feature/x", "SYSTEM_PULLREQUEST_SOURCECOMMITID": HEAD,
        },
        AZURE_JOB | MERGED,
    ),
    "azure pull request on GitHub": (
        AZURE | {
            "BUILD_SOURCEBRANCH": "refs/pull/7/merge", "BUILD_SOURCEVERSION": MERGE, "SYSTEM_PULLREQUEST_SOURCECOMMITID": HEAD,
            "SYSTEM_PULLREQUEST_PULLREQUESTID": "1184", "SYSTEM_PULLREQUEST_PULLREQUESTNUMBER": "7",
            "SYSTEM_PULLREQUEST_SOURCEBRANCH": "feature/x",
        },
        AZURE_JOB | MERGED,
    ),
    "slurm": (
        {"SLURM_JOB_ID": "31", "SLURM_JOB_NAME": "fit", "SLURM_JOB_NODELIST": "gpu[1-2]"},
        {"slurm.job_id": "31", "slurm.job_name": "fit", "slurm.nodes": "gpu[1-2]"},
    ),
    "slurm array": (
        {"SLURM_JOB_ID": "33", "SLURM_NODELIST": "gpu1", "SLURM_ARRAY_JOB_ID": "31", "SLURM_ARRAY_TASK_ID": "0"},
        {"slurm.job_id": "33", "slurm.nodes": "gpu1", "slurm.array_job_id": "31", "slurm.array_index": "0"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("job", JOBS)
def test_what_a_job_says_becomes_tags(tmp_path: Path, job: str) -> None:
    """Commit and branch are those of the pull request's head, whatever merge of it the provider has checked out."""
    head = {"sha": HEAD, "ref": "feature/x"}
    (tmp_path / "event.json").write_text(json.dumps({"number": 7, "pull_request": {"number": 7, "head": head}}))
    environment, expected = JOBS[job]
    assert ci.tags(environment) == expected


def tags(directory: Path) -> dict[str, str]:
    with sqlite3.connect(directory / "mlflow.db") as db:
        return dict(db.execute("SELECT key, value FROM tags").fetchall())


def page(environment: Mapping[str, str], states: Mapping[str, BackendState], **more: Any) -> list[str]:
    lines, problem = ci.report(environment, "p / e", {"mlflow": "https://m.example/#/runs/1"}, states, None, **more)
    assert problem is None
    return lines


PULL = JOBS["github pull request"][0]


def test_run_and_job_know_each_other(run_python: RunPython, tmp_path: Path) -> None:
    """In a GitHub job, the run has the job's tags, the job's page a table of the trackers and a note with the links; the
    program's own output has nothing of it."""
    summary = tmp_path / "summary.md"
    summary.write_text("what the step wrote before\n")
    (tmp_path / "event.json").write_text(json.dumps({"pull_request": {"head": {"sha": HEAD}}}))
    done = run_python(
        LOG + "session(tags={'git.branch': 'mine'})\nlog(30)\nprint('done')",
        env=PULL | {"GITHUB_STEP_SUMMARY": str(summary), "SLURM_JOB_ID": "31"},
    )
    assert done.stdout == "done\n"
    found = tags(tmp_path)
    expected = JOBS["github pull request"][1] | {"git.branch": "mine", "slurm.job_id": "31"}
    assert {name: value for name, value in found.items() if name in expected} == expected
    before, *lines = summary.read_text().splitlines()
    assert before == "what the step wrote before"
    assert lines[1] == "### p / e"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert cells[0] == ["tracker", "run", "delivered", "pending", "set aside", "state"]
    (mlflow,) = (row for row in cells if row[0] == "mlflow")
    assert mlflow[1].startswith("`mlflow ui --backend-store-uri sqlite:///")
    assert mlflow[2:] == ["30", "0", "0", "closed"]
    (copy,) = (row for row in cells if row[0] == "tensorboard")
    assert copy[2:] == ["30", "0", "0", "closed"]
    (notice,) = (line for line in done.stderr.splitlines() if line.startswith("::"))
    assert notice.startswith("::notice title=tracelet-shim::mlflow: mlflow ui --backend-store-uri sqlite:///")
    assert "%0Atensorboard: tensorboard --logdir " in notice


def test_switched_off_nothing_is_said_of_the_job(run_python: RunPython, tmp_path: Path) -> None:
    """TRACELET_CI=0 leaves out tags, summary and annotations."""
    summary = tmp_path / "summary.md"
    done = run_python(
        LOG + "session()\nlog(3)",
        env=PULL | {"GITHUB_STEP_SUMMARY": str(summary), "SLURM_JOB_ID": "31", "TRACELET_CI": "0"},
    )
    assert not [name for name in tags(tmp_path) if name.startswith(("ci.", "slurm."))]
    assert not summary.exists()
    assert "::" not in done.stderr.replace(":///", "")


def test_what_is_missing_is_a_warning_of_the_job(run_python: RunPython, tmp_path: Path) -> None:
    """A tracker that cannot be reached is named on the job's page, with the command that delivers the rest later; under
    strict too, where stopping raises."""
    summary = tmp_path / "summary.md"
    summary.touch()
    env = GITHUB | {"GITHUB_STEP_SUMMARY": str(summary), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    done = run_python(LOG + "session(exit_timeout=20, strict=True)\nlog(5)", env=env, check=False)
    assert done.returncode != 0
    rows = {line.split("|")[1].strip(): line for line in summary.read_text().splitlines() if line.startswith("|")}
    assert "| 0 | 5 | 0 | failed: " in rows["mlflow"]
    assert "| 5 | 0 | 0 | closed |" in rows["tensorboard"]
    assert f"`tracelet-shim replay {tmp_path}/runs/x --resume`" in summary.read_text()
    (warning,) = (line for line in done.stderr.splitlines() if line.startswith("::warning"))
    assert warning.startswith("::warning title=tracelet-shim::mlflow: 5 events were not delivered (")


def test_a_summary_that_cannot_be_written_is_one_line(run_python: RunPython, tmp_path: Path) -> None:
    """The run is delivered all the same, and the annotations are there."""
    done = run_python(LOG + "session()\nlog(5)", env=GITHUB | {"GITHUB_STEP_SUMMARY": str(tmp_path)})
    assert done.stderr.count("the summary of the CI job cannot be written") == 1
    assert done.stderr.count("::notice title=tracelet-shim::mlflow: ") == 1
    assert tags(tmp_path)["ci.provider"] == "github"


def test_a_run_of_the_users_gets_no_tags_of_the_job(run_python: RunPython, tmp_path: Path) -> None:
    """What was not asked for does not go into a run that is only joined, so a tag of the user's cannot be overwritten."""
    done = run_python(
        """
        import mlflow, tracelet_shim as tracelet
        from torch.utils.tensorboard import SummaryWriter
        with mlflow.start_run():
            mlflow.set_tag("git.commit", "mine")
            with tracelet.start_logging("mlflow", tags={"asked": "for"}):
                SummaryWriter("runs/x").add_scalar("loss", 1.0, 1)
        """,
        env=GITHUB | {"GITHUB_SHA": HEAD, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"},
    )
    assert done.returncode == 0
    found = tags(tmp_path)
    assert (found["git.commit"], found["asked"]) == ("mine", "for")
    assert "ci.provider" not in found


def test_annotations_stay_one_line_each() -> None:
    """Line ends and percent signs are escaped as the provider's commands want them, so no text can be taken for a command."""
    states = {"mlflow": BackendState("failed", 0, 3, 0, "50 % gone\n::error::mine")}
    notice, warning = page(GITHUB, states)
    assert notice == "::notice title=tracelet-shim::mlflow: https://m.example/#/runs/1"
    assert warning == (
        "::warning title=tracelet-shim::mlflow: 3 events were not delivered (50 %25 gone%0A::error::mine)"
    )
    assert page(GITHUB, states, quiet=True) == [warning]


def test_azure_gets_its_summary_as_a_file(tmp_path: Path) -> None:
    """Azure Pipelines is given the same section, by a line that names its file, and the warnings."""
    states = {"mlflow": BackendState("failed", 0, 3, 0, "50 % gone"), "aim": BackendState("closed", 7)}
    warning, upload = page(AZURE | {"AGENT_TEMPDIRECTORY": str(tmp_path)}, states)
    assert warning == (
        "##vso[task.logissue type=warning]tracelet-shim: mlflow: 3 events were not delivered (50 %AZP25 gone)"
    )
    text = Path(upload.removeprefix("##vso[task.uploadsummary]")).read_text()
    assert "| mlflow | <https://m.example/#/runs/1> | 0 | 3 | 0 | failed: 50 % gone |" in text
    assert "| aim |  | 7 | 0 | 0 | closed |" in text


def test_other_providers_get_no_commands(tmp_path: Path) -> None:
    """Where output is only shown, nothing is written that is meant for a machine."""
    states = {"mlflow": BackendState("failed", 0, 3, 0, "gone")}
    for environment in ({}, GITLAB, JENKINS, BUILDKITE, CIRCLECI):
        assert page(environment, states) == []


ODD = (
    "[x](javascript:alert(1)) | <img src=x onerror=alert(1)> &lt; `c` _i_ *b* $m$ #1 @me ~~s~~ www.odd.example"
    " https://odd.example a\\"
)


class Page(HTMLParser):
    """What a page shows of a table's cells, the places of its links, and its tags."""

    def __init__(self, markdown: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.links: list[str | None] = []
        self.tags: set[str] = set()
        self._in_cell = False
        self.feed(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("href", "src")]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data


def test_nothing_in_the_summary_becomes_markup() -> None:
    """What a tracker or a name says is shown as it is: no HTML, no Markdown, no other cell, and no link but to http(s)."""
    urls = {ODD: "javascript:alert(1)", "b": "https://b.example/|<b>?x=`1`\n\x1b[0m", "c": f"mlflow ui {ODD}"}
    states = {ODD: BackendState("failed", 0, 3, 0, f"{ODD}\n| d | e |"), "b": BackendState(), "c": BackendState()}
    page = ci._summary(ODD, urls, states, f"tracelet-shim replay '{ODD}'")
    table = "\n".join(line for line in page.splitlines() if line.startswith("|"))
    shown = Page(table)
    rows = shown.rows
    assert [row[0] for row in rows] == ["tracker", ODD, "b", "c"]
    assert rows[1][1:] == ["javascript:alert(1)", "0", "3", "0", f"failed: {ODD} | d | e |"]
    assert rows[3][1] == f"mlflow ui {ODD}"
    assert shown.links == ["https://b.example/%7C%3Cb%3E?x=%601%60%0A%1B%5B0m"]
    assert shown.tags == {"table", "thead", "tbody", "tr", "th", "td", "code", "a"}
    before, after = page.split(table)
    assert Page(before).tags == {"h3"}
    assert Page(after).tags == {"p", "code"}


def test_no_text_is_a_command_of_the_job() -> None:
    """GitHub's and Azure's commands in somebody's name or error are shown, not obeyed; so are control characters."""
    states = {"mlflow": BackendState("failed", 0, 3, 0, "x ##vso[task.setvariable variable=PATH]y ##[add-mask]z\x1b[2J")}
    for environment in (GITHUB, AZURE):
        warning = page(environment, states)[-1]
        assert warning.count("##") == warning.startswith("##vso[task.logissue type=warning]")
        assert "\x1b" not in warning
        assert r"#\x23vso[task.setvariable variable=PATH]y #\x23[add-mask]z\x1b[2J" in warning
