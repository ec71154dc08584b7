"""Make the pictures of the trackers' own UIs in docs/images.

    python packaging/pictures.py [NAME ...]        (all, or those whose names begin with one of these)

It logs two runs with `pictured_run.py`, starts each tracker's UI on this machine, opens the pages in Chromium without a window,
and saves what is to be seen. It needs the four trackers, torch and matplotlib in this Python, `pip install selenium pillow`, and
Chromium with its driver (Debian: chromium, chromium-driver). The network is not used.
"""

import contextlib
import io
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

HERE = Path(__file__).resolve().parent
IMAGES = HERE.parent / "docs" / "images"
BIN = Path(sys.executable).parent
MOST_BYTES = 150_000
PATIENCE = 90
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--window-size=1280,887", "--force-device-scale-factor=1", "--lang=en",
]  # fmt: skip

OFFERS = "//*[@aria-label='Close'] | //*[normalize-space(text())='Skip']"  # of an assistant, of a community
TIDY = """
    const style = document.createElement("style");
    style.textContent = ".modebar {display: none} *:not(i):not([class*='fa-']) {font-family: 'DejaVu Sans' !important}";
    document.head.append(style);
    document.querySelectorAll("*").forEach((element) => { element.scrollLeft = 0; });
"""  # its own list of fonts has digits of an emoji font; the tree of artifacts is moved sideways by a click


class Page(NamedTuple):
    """What is on a picture.

    Attributes:
        tracker: whose UI.
        path: in its address.
        clicks: beginnings of texts that are clicked on, one after the other.
        word: when this is on the page, it is there; TensorBoard's pages cannot be asked.
    """

    tracker: str
    path: str
    clicks: list[str]
    word: str


def ui(tracker: str, folder: Path, port: int) -> list[str]:
    """Return the command that starts a tracker's UI."""
    return {
        "mlflow": ["mlflow", "ui", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--port", str(port)],
        "trackio": ["trackio", "show", "--project", "digits"],
        "aim": ["aim", "up", "--repo", str(folder), "--port", str(port)],
        "tensorboard": ["tensorboard", "--logdir", f"{folder}/tracelet-runs/digits", "--port", str(port)],
    }[tracker]


def pages(folder: Path) -> dict[str, Page]:
    """Return the pages by the names of their pictures."""
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        ((experiment, run),) = connection.execute("SELECT experiment_id, run_uuid FROM runs WHERE name = 'fast'")
    (aim_run,) = [chunk.name for chunk in (folder / ".aim" / "meta" / "chunks").iterdir()][-1:]
    of_run = f"/#/experiments/{experiment}/runs/{run}"
    return {
        "trackio-metrics": Page("trackio", "/metrics?project=digits", [], "accuracy"),
        "trackio-system": Page("trackio", "/system?project=digits", [], "cpu"),
        "trackio-runs": Page("trackio", "/runs?project=digits", [], "fast"),
        "trackio-media": Page("trackio", "/media?project=digits", [], "val/confusion"),
        "mlflow-metrics": Page("mlflow", f"{of_run}/model-metrics", [], "accuracy"),
        "mlflow-histogram": Page("mlflow", f"{of_run}/artifacts", ["histograms", "weights", "fc1", "step=00000180"], "Path:"),
        "mlflow-text": Page("mlflow", f"{of_run}/artifacts", ["text", "notes", "step=00000180"], "Path:"),
        "aim-system": Page("aim", f"/runs/{aim_run}/system", [], "CPU"),
        "tensorboard-scalars": Page("tensorboard", "/?tagFilter=train%7Cval#timeseries", [], ""),
        "tensorboard-histograms": Page("tensorboard", "/#histograms", [], ""),
    }


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def log_runs(folder: Path, environment: dict[str, str]) -> None:
    """Run the program twice, in a folder of its own."""
    for name, rate in (("slow", 0.0008), ("fast", 0.002)):
        command = [sys.executable, str(HERE / "pictured_run.py"), name, str(rate)]
        subprocess.run(command, cwd=folder, env={**environment, "TRACELET_STRICT": "1"}, check=True)


@contextlib.contextmanager
def served(tracker: str, folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """Start a UI; yield its address, once it answers."""
    port = free_port()
    command = ui(tracker, folder, port)
    with (folder / f"{tracker}.log").open("wb") as log:
        process = subprocess.Popen(
            [str(BIN / command[0]), *command[1:]], cwd=folder, env={**environment, "GRADIO_SERVER_PORT": str(port)},
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(address, timeout=5).close()
                break
            if time.monotonic() > until or process.poll() is not None:
                raise SystemExit(f"{tracker}: no UI:\n{(folder / f'{tracker}.log').read_text()}")
            time.sleep(0.5)
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with its workers, which would wait for the browser
        process.wait()


def browser(folder: Path) -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for flag in (*FLAGS, f"--user-data-dir={tempfile.mkdtemp(dir=folder)}"):
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))


def shoot(driver: webdriver.Chrome, address: str, page: Page) -> bytes:
    """Open a page, do what is to be done there, and return the picture."""
    driver.get(address + page.path)
    for text in page.clicks:
        click(driver, text)
    body = driver.find_element(By.TAG_NAME, "body")
    WebDriverWait(driver, PATIENCE).until(lambda _: page.word in (body.get_attribute("innerText") or ""))
    for offer in driver.find_elements(By.XPATH, OFFERS):
        if offer.is_displayed():
            offer.click()
    if page.tracker == "mlflow":
        driver.execute_script(TIDY)
    time.sleep(5)  # charts are drawn with a movement
    return driver.get_screenshot_as_png()


def click(driver: webdriver.Chrome, text: str) -> None:
    """Click on what begins with a text, or is it, once it is there."""
    found = f"//*[starts-with(normalize-space(text()), '{text}')]"
    WebDriverWait(driver, PATIENCE).until(lambda d: [e for e in d.find_elements(By.XPATH, found) if e.is_displayed()])
    [element for element in driver.find_elements(By.XPATH, found) if element.is_displayed()][-1].click()
    time.sleep(1.5)


def save(name: str, data: bytes) -> None:
    """Save a picture, with as many colors as there is room for."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    colors, small = 256, io.BytesIO()
    image.quantize(colors, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    while len(small.getvalue()) > MOST_BYTES and colors > 2:
        colors, small = colors // 2, io.BytesIO()
        image.quantize(colors, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    (IMAGES / f"{name}.png").write_bytes(small.getvalue())
    print(f"{name}.png: {image.width} x {image.height}, {len(small.getvalue()) / 1000:.0f} kB", flush=True)


def main(wanted: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="pictures-") as text:
        folder = Path(text)
        mine = ("TRACELET_", "MLFLOW_", "AIM_", "TRACKIO_")  # settings of yours would send the data elsewhere
        environment = {name: value for name, value in os.environ.items() if not name.startswith(mine)}
        environment.update(TRACKIO_DIR=str(folder / "trackio"), HF_HUB_OFFLINE="1", MLFLOW_DISABLE_TELEMETRY="true")
        environment.update(BROWSER="true")  # the program of this name, which does nothing
        log_runs(folder, environment)
        chosen = {name: page for name, page in pages(folder).items() if not wanted or name.startswith(tuple(wanted))}
        driver = browser(folder)
        try:
            for tracker in dict.fromkeys(page.tracker for page in chosen.values()):
                with served(tracker, folder, environment) as address:
                    for name, page in chosen.items():
                        if page.tracker == tracker:
                            save(name, shoot(driver, address, page))
        finally:
            driver.quit()


if __name__ == "__main__":
    main(sys.argv[1:])
