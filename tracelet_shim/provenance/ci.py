"""The CI or SLURM job that a program runs in: what it says about itself becomes tags, and it is told what was delivered.

Everything is read from the environment, by the variables that each provider documents:

    GitHub Actions    docs.github.com/actions/reference/workflows-and-actions/variables
    GitLab CI         docs.gitlab.com/ci/variables/predefined_variables
    Jenkins           <jenkins>/env-vars.html, with the Git and the multibranch plugins
    Buildkite         buildkite.com/docs/pipelines/configure/environment-variables
    CircleCI          circleci.com/docs/reference/variables
    Azure Pipelines   learn.microsoft.com/azure/devops/pipelines/build/variables
    SLURM             slurm.schedmd.com/sbatch.html, "OUTPUT ENVIRONMENT VARIABLES"

For a pull request, several of them build a merge of the two branches that is nobody's commit and is soon gone. There
``git.commit`` and ``git.branch`` are the head of the pull request, which its page and the branch's history show, and
``ci.merge_commit`` is what was checked out.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from tracelet_shim.common.text import as_utf8
from tracelet_shim.display.printable import printable
from tracelet_shim.display.terminal import say
from tracelet_shim.provenance.secrets import mask_text

if TYPE_CHECKING:
    from tracelet_shim.bus.messages import BackendState

__all__ = ["report", "tags", "tell"]

Environment = Mapping[str, str]


class Job(NamedTuple):
    """What a CI job says about itself; empty where it says nothing.

    Attributes:
        provider: ``"github"``, ``"gitlab"``, ``"jenkins"``, ``"buildkite"``, ``"circleci"`` or ``"azure"``.
        commit: 40 hex digits; of a pull request, the head.
        branch: its plain name; of a pull request, the one that is to be merged.
        tag: the git tag, where one is built; there is no branch then.
        pull_request: its number.
        url: the page of the job.
        actor: who caused it, as the provider names people.
        merge_commit: what is checked out, where that is another commit than `commit`.
    """

    provider: str
    commit: str = ""
    branch: str = ""
    tag: str = ""
    pull_request: str = ""
    url: str = ""
    actor: str = ""
    merge_commit: str = ""


def tags(environment: Environment) -> dict[str, str]:
    """Return the tags that a run gets in this CI or SLURM job; none outside of one."""
    found: dict[str, str] = {}
    job = detect(environment)
    if job is not None:
        found = {
            "ci.provider": job.provider, "ci.job_url": mask_text(job.url), "ci.pull_request": job.pull_request,
            "ci.actor": job.actor, "ci.merge_commit": job.merge_commit if job.merge_commit != job.commit else "",
            "git.commit": job.commit, "git.branch": job.branch, "git.tag": job.tag,
        }  # fmt: skip
    if environment.get("SLURM_JOB_ID"):
        found |= {
            "slurm.job_id": environment["SLURM_JOB_ID"],
            "slurm.job_name": environment.get("SLURM_JOB_NAME", ""),
            "slurm.nodes": environment.get("SLURM_JOB_NODELIST") or environment.get("SLURM_NODELIST", ""),
            "slurm.array_job_id": environment.get("SLURM_ARRAY_JOB_ID", ""),
            "slurm.array_index": environment.get("SLURM_ARRAY_TASK_ID", ""),
        }
    return {name: as_utf8(value) for name, value in found.items() if value}


def detect(environment: Environment) -> Job | None:
    """Return the CI job that this environment belongs to, or None."""
    marks = (mark for mark in _PROVIDERS if environment.get(mark, "").lower() not in ("", "0", "false"))
    return next((_PROVIDERS[mark](environment) for mark in marks), None)


def _github(env: Environment) -> Job:
    ref = env.get("GITHUB_REF", "")
    event = env.get("GITHUB_EVENT_NAME", "")
    server, repository = env.get("GITHUB_SERVER_URL", "https://github.com"), env.get("GITHUB_REPOSITORY", "")
    run, attempt = env.get("GITHUB_RUN_ID", ""), env.get("GITHUB_RUN_ATTEMPT", "")
    url = f"{server}/{repository}/actions/runs/{run}" + (f"/attempts/{attempt}" if attempt else "")
    job = Job(
        "github", env.get("GITHUB_SHA", ""), _branch(ref), _tag(ref), url=url if repository and run else "",
        actor=env.get("GITHUB_TRIGGERING_ACTOR") or env.get("GITHUB_ACTOR", ""),
    )  # fmt: skip
    if not event.startswith("pull_request"):
        return job
    request = _github_pull_request(env.get("GITHUB_EVENT_PATH", ""))
    number = re.match(r"refs/pull/(\d+)/", ref)
    job = job._replace(pull_request=number.group(1) if number else str(request.get("number") or ""))
    if not number:  # pull_request_target, or a pull request that is closed: its base is what runs
        return job
    head = request.get("head")
    head = head if isinstance(head, dict) else {}
    return job._replace(
        branch=env.get("GITHUB_HEAD_REF") or str(head.get("ref") or ""),  # which events of a review do not set
        commit=str(head.get("sha") or job.commit), merge_commit=job.commit,
    )  # fmt: skip


def _github_pull_request(path: str) -> dict[str, object]:
    """Return what the event that started the workflow tells of its pull request; GITHUB_SHA is only the merge commit."""
    with contextlib.suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
        event = json.load(file)
        if isinstance(event, dict) and isinstance(event.get("pull_request"), dict):
            return dict(event["pull_request"])
    return {}


def _gitlab(env: Environment) -> Job:
    # The first two are of merge requests, the others of pull requests on GitHub that GitLab builds.
    head = env.get("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA") or env.get("CI_EXTERNAL_PULL_REQUEST_SOURCE_BRANCH_SHA", "")
    source = env.get("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME") or env.get("CI_EXTERNAL_PULL_REQUEST_SOURCE_BRANCH_NAME", "")
    tag = env.get("CI_COMMIT_TAG", "")
    commit = env.get("CI_COMMIT_SHA", "")
    return Job(
        "gitlab", head or commit, source or env.get("CI_COMMIT_BRANCH") or ("" if tag else env.get("CI_COMMIT_REF_NAME", "")),
        tag, env.get("CI_MERGE_REQUEST_IID") or env.get("CI_EXTERNAL_PULL_REQUEST_IID", ""), env.get("CI_JOB_URL", ""),
        env.get("GITLAB_USER_LOGIN", ""), commit if head else "",
    )  # fmt: skip


def _jenkins(env: Environment) -> Job:
    # Of a pull request, BRANCH_NAME and GIT_BRANCH are "PR-7"; elsewhere GIT_BRANCH has the remote in front.
    plain = env.get("GIT_LOCAL_BRANCH") or re.sub(r"^(refs/remotes/)?origin/", "", env.get("GIT_BRANCH", ""))
    tag = env.get("TAG_NAME", "")
    return Job(
        "jenkins", env.get("GIT_COMMIT", ""),
        env.get("CHANGE_BRANCH") or ("" if tag else env.get("BRANCH_NAME") or plain), tag, env.get("CHANGE_ID", ""),
        env.get("BUILD_URL", ""), env.get("BUILD_USER_ID") or env.get("CHANGE_AUTHOR", ""),
    )  # fmt: skip


def _buildkite(env: Environment) -> Job:
    commit, tag = env.get("BUILDKITE_COMMIT", ""), env.get("BUILDKITE_TAG", "")
    request = env.get("BUILDKITE_PULL_REQUEST", "")
    url, job = env.get("BUILDKITE_BUILD_URL", ""), env.get("BUILDKITE_JOB_ID", "")
    return Job(
        "buildkite", commit if commit != "HEAD" else "",  # a build of whatever is there: git knows, see what_ran
        "" if tag else env.get("BUILDKITE_BRANCH", ""), tag, request if request.isdigit() else "",
        f"{url}#{job}" if url and job else url, env.get("BUILDKITE_BUILD_CREATOR") or env.get("BUILDKITE_BUILD_AUTHOR", ""),
    )  # fmt: skip


def _circleci(env: Environment) -> Job:
    # CIRCLE_PR_NUMBER is there for forks only; the URL ends with the number.
    request = re.search(r"/(\d+)/?$", env.get("CIRCLE_PULL_REQUEST", ""))
    branch = env.get("CIRCLE_BRANCH", "")
    if re.fullmatch(r"pull/\d+", branch):  # what it calls the branch of a fork
        branch = ""
    tag = env.get("CIRCLE_TAG", "")
    return Job(
        "circleci", env.get("CIRCLE_SHA1", ""), "" if tag else branch, tag,
        env.get("CIRCLE_PR_NUMBER") or (request.group(1) if request else ""), env.get("CIRCLE_BUILD_URL", ""),
        env.get("CIRCLE_USERNAME") or env.get("CIRCLE_PR_USERNAME", ""),
    )  # fmt: skip


def _azure(env: Environment) -> Job:
    ref = env.get("BUILD_SOURCEBRANCH", "")  # not BUILD_SOURCEBRANCHNAME, which is only what follows the last slash
    commit, head = env.get("BUILD_SOURCEVERSION", ""), env.get("SYSTEM_PULLREQUEST_SOURCECOMMITID", "")
    source = env.get("SYSTEM_PULLREQUEST_SOURCEBRANCH", "")
    project, build = env.get("SYSTEM_TEAMPROJECT", ""), env.get("BUILD_BUILDID", "")
    server = env.get("SYSTEM_COLLECTIONURI") or env.get("SYSTEM_TEAMFOUNDATIONCOLLECTIONURI", "")
    url = f"{server.rstrip('/')}/{quote(project)}/_build/results?buildId={build}"
    if env.get("SYSTEM_JOBID"):
        url += f"&view=logs&j={env['SYSTEM_JOBID']}"
    return Job(
        "azure", head or commit, source.removeprefix("refs/heads/") or _branch(ref), _tag(ref),
        # The number is GitHub's; the id is Azure's own, which in Azure Repos is the number that people see.
        env.get("SYSTEM_PULLREQUEST_PULLREQUESTNUMBER") or env.get("SYSTEM_PULLREQUEST_PULLREQUESTID", ""),
        url if server and build else "", env.get("BUILD_REQUESTEDFOR", ""), commit if head else "",
    )  # fmt: skip


def _branch(ref: str) -> str:
    return ref.removeprefix("refs/heads/") if ref.startswith("refs/heads/") else ""


def _tag(ref: str) -> str:
    return ref.removeprefix("refs/tags/") if ref.startswith("refs/tags/") else ""


_PROVIDERS = {
    "GITHUB_ACTIONS": _github, "GITLAB_CI": _gitlab, "BUILDKITE": _buildkite, "CIRCLECI": _circleci, "TF_BUILD": _azure,
    "JENKINS_URL": _jenkins, "JENKINS_HOME": _jenkins,  # last: an agent of another provider may well run on the same host
}  # fmt: skip
"""By the variable that is set in each job of the provider."""


# -- what is told to the job ------------------------------------------------------------------------------------------


def tell(
    environment: Environment,
    title: str,
    urls: Mapping[str, str | None],
    states: Mapping[str, BackendState],
    remedy: str | None,
    *,
    quiet: bool,
) -> None:
    """Tell the job, if there is one, what became of a session: its summary, and annotations. Arguments as of `report`."""
    lines, problem = report(environment, title, urls, states, remedy, quiet=quiet)
    if problem is not None:
        say(f"warning: the summary of the CI job cannot be written: {problem}")
    with contextlib.suppress(OSError, ValueError, AttributeError):  # as in `say`
        sys.stderr.write("".join(f"{line}\n" for line in lines))  # providers look for commands at the start of a line
        sys.stderr.flush()


def report(
    environment: Environment,
    title: str,
    urls: Mapping[str, str | None],
    states: Mapping[str, BackendState],
    remedy: str | None,
    *,
    quiet: bool = False,
) -> tuple[list[str], OSError | None]:
    """Write the summary of a session into the job's page; return the lines, annotations, that are to be printed, and what
    kept the summary from being written.

    Of the providers, GitHub Actions and Azure Pipelines show a summary and take annotations from a job's output.

    Args:
        environment: the job's.
        title: what the session is called.
        urls: by tracker, the run's link or local place.
        states: by tracker, what was delivered.
        remedy: the command that delivers what is missing.
        quiet: print warnings only.
    """
    job = detect(environment)
    lines: list[str] = []
    linked = [f"{name}: {url}" for name, url in urls.items() if url]
    warnings = [f"{name}: {s.shortfall}" for name, s in states.items() if not s.complete]
    if job is not None and job.provider == "github":
        if linked and not quiet:
            lines.append(f"::notice title=tracelet-shim::{_github_text(chr(10).join(linked))}")
        lines += [f"::warning title=tracelet-shim::{_github_text(text)}" for text in warnings]
    elif job is not None and job.provider == "azure":
        lines += [f"##vso[task.logissue type=warning]{_azure_text(f'tracelet-shim: {text}')}" for text in warnings]
    page = _summary(title, urls, states, remedy).encode("utf-8", "replace")
    try:
        if environment.get("GITHUB_STEP_SUMMARY"):
            _append(environment["GITHUB_STEP_SUMMARY"], page)
        elif job is not None and job.provider == "azure" and environment.get("AGENT_TEMPDIRECTORY"):
            path = os.path.join(environment["AGENT_TEMPDIRECTORY"], f"tracelet-shim-{os.getpid()}.md")
            _append(path, page)  # the agent reads it when the line comes, and removes it with the job
            lines.append(f"##vso[task.uploadsummary]{_azure_text(path)}")
    except OSError as error:
        return lines, error
    return lines, None


def _append(path: str, data: bytes) -> None:
    """Append in one system call: other processes of the job may write at the same moment."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def _summary(title: str, urls: Mapping[str, str | None], states: Mapping[str, BackendState], remedy: str | None) -> str:
    """Return one section of Markdown. The texts in it are others': none becomes markup, HTML, or a link that is no web link."""
    lines = [
        "", f"### {_text(title)}", "",
        "| tracker | run | delivered | pending | set aside | state |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]  # fmt: skip
    for name, s in states.items():
        state = f"{_text(s.state)}: {_text(s.error)}" if s.error else _text(s.state)
        lines.append(f"| {_text(name)} | {_link(urls.get(name))} | {s.delivered} | {s.pending} | {s.failed} | {state} |")
    if remedy is not None:
        lines += ["", f"What is missing is in the event files; to deliver it: {_code(remedy)}"]
    return "\n".join(lines) + "\n"


def _link(url: str | None) -> str:
    if not url:
        return ""
    if url.startswith(("http://", "https://")):
        return f"<{quote(url, safe=_IN_URLS)}>"
    return _code(url)


_IN_URLS = "!#$%&'()*+,-./:;=?@[]_~"
_MARKUP = re.compile(r"[!#$&*:<>@\[\\\]^`_|~]|(?<=\bwww)\.", re.IGNORECASE)


def _text(text: str) -> str:
    """Return a text for Markdown, in a table as well: what could be markup becomes an entity, which never is."""
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", printable(text))


def _code(text: str) -> str:
    text = printable(text)
    return f"<code>{_text(text)}</code>" if set("`|\\").intersection(text) else f"`{text}`"


def _github_text(text: str) -> str:
    """Escape the message of a workflow command, as ``actions/toolkit`` does it (packages/core/src/command.ts)."""
    return _lines(text).replace("%", "%25").replace("\n", "%0A")


def _azure_text(text: str) -> str:
    """Escape the message of a logging command ("Formatting commands" on its documentation page)."""
    return _lines(text).replace("%", "%AZP25").replace("\n", "%0A")


def _lines(text: str) -> str:
    return "\n".join(map(printable, text.splitlines()))
