"""The typed events: what a backend sees.

Every event is frozen plain data that `msgspec` can encode; none holds a tensor, a figure or a handle, so an event can
be kept, compared and sent to another process. One call of a `SummaryWriter` method becomes one event, save where the
event file itself has several (a mesh is one event; two thousand scalars of one `Summary` are two thousand, and so are two
thousand images of one value of TensorFlow's: the first has the tag, the others ``<tag>/1``, ``<tag>/2``, ...).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple, Union

import msgspec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = [
    "EVENT_TYPES", "Alert", "Array", "Artifact", "ArtifactFile", "Audio", "Blob", "Cell", "CustomScalars", "Embedding",
    "Event", "Graph", "HParams", "Histogram", "Image", "Marker", "Mesh", "Model", "PRCurve", "RecordId", "Scalar",
    "Table", "Tags", "Tensor", "Text", "Used", "Video",
]  # fmt: skip


class RecordId(NamedTuple):
    """Where an event stands in its event file: the idempotency key of delivery.

    Attributes:
        file: path of the event file (absolute).
        position: index of the record in that file; 0 is the ``file_version`` record.
        index: index of the value within the record's summary. A value that has several items (images, clips of sound) is
            several events: the second's index is that of the first and as many as the summary has values, and so on.
    """

    file: str
    position: int
    index: int = 0  # type: ignore[assignment]  # hides tuple.index, for which there is no use here


class Array(msgspec.Struct, frozen=True):
    """An n-dimensional array as plain data.

    Attributes:
        dtype: numpy's name of the type, e.g. ``"float32"``.
        shape: the shape.
        data: the elements, C order, little endian.
    """

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    def numpy(self) -> npt.NDArray[np.generic]:
        """Return the (read-only) numpy array."""
        import numpy as np

        return np.frombuffer(self.data, dtype=np.dtype(self.dtype).newbyteorder("<")).reshape(self.shape)

    @classmethod
    def of(cls, values: npt.ArrayLike) -> Array:
        """Copy `values`, anything that `numpy.asarray` takes, into an Array."""
        import numpy as np

        array = np.asarray(values)
        return cls(array.dtype.name, tuple(array.shape), array.astype(array.dtype.newbyteorder("<"), order="C").tobytes())


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="type", tag=str.lower):
    """What all events have.

    (`gc=False`: plain data has no cycles, and looking for them among a million events takes time.)

    Attributes:
        writer: the writer's log directory relative to the session's root; empty for the writer on the root.
        tag: the tag as the user gave it, unchanged; may be empty or hold any character.
        step: TensorBoard's step. ``global_step=None`` is stored as 0 by TensorBoard, and so it is here.
        wall_time: seconds since the epoch; whatever the user passed as ``walltime``, NaN and negatives included.
        record: where it stands in the event file.
        suffix: ``"~2"`` and so on if another writer, tag or series already has this `path` (the root's tag
            ``train/loss`` beside the tag ``loss`` of the writer ``train``); else empty.
        logdir: the writer's log directory, absolute where the program ran; empty if it is not known. What `add_scalars` and
            `add_hparams` write lies in directories below it.
        source: the serialised ``tensorboard.Event`` proto that this event was decoded from. All events of one record
            share it. Empty where TensorBoard itself wrote no event (embeddings).
    """

    kind: ClassVar[str] = "event"

    writer: str
    tag: str
    step: int
    wall_time: float
    record: RecordId
    suffix: str = ""
    logdir: str = ""
    source: bytes = b""

    @property
    def path(self) -> str:
        """The tag with its writer in front, joined by a slash: ``train/loss``; unique within the session."""
        path = f"{self.writer}/{self.tag}" if self.writer else self.tag
        return path + self.suffix if self.suffix else path


class Scalar(Event, frozen=True, kw_only=True):
    """`add_scalar`, and each key of `add_scalars`.

    Attributes:
        value: float64, exactly the number that the user passed. NaN and infinities are kept.
        series: the key within `add_scalars` (whose ``main_tag`` is then `tag`); None for `add_scalar`.
    """

    kind: ClassVar[str] = "scalar"

    value: float
    series: str | None = None

    @property
    def path(self) -> str:
        path = f"{self.writer}/{self.tag}" if self.writer else self.tag
        return (path if self.series is None else f"{path}/{self.series}") + self.suffix


class Histogram(Event, frozen=True, kw_only=True):
    """`add_histogram`, `add_histogram_raw`.

    Attributes:
        min, max, num, sum, sum_squares: of the samples, float64.
        limits: right edge of each bucket, ascending, float64; the last may be ``1.79e308``.
        counts: number of samples in each bucket, same length as `limits`. The left edge of bucket 0 is `min` where that
            is below ``limits[0]``; TensorBoard's own histograms begin with an empty bucket.
    """

    kind: ClassVar[str] = "histogram"

    min: float
    max: float
    num: float
    sum: float
    sum_squares: float
    limits: tuple[float, ...]
    counts: tuple[float, ...]


class Image(Event, frozen=True, kw_only=True):
    """`add_image`, `add_images`, `add_image_with_boxes`, `add_figure`: the picture as TensorBoard shows it.

    Attributes:
        data: the encoded file, a PNG (a foreign producer may have written JPEG, see `format`).
        format: ``"png"``, ``"jpeg"``, ...; found in the data.
        width, height: pixels.
        channels: 1 grey, 2 grey + alpha, 3 RGB, 4 RGBA.
        figure: True if it came through `add_figure`.
    """

    kind: ClassVar[str] = "image"

    data: bytes
    format: str = "png"
    width: int
    height: int
    channels: int
    figure: bool = False


class Video(Event, frozen=True, kw_only=True):
    """`add_video`.

    Attributes:
        data: an animated GIF.
        width, height: pixels.
        frames: number of frames.
        fps: frames a second.
    """

    kind: ClassVar[str] = "video"

    data: bytes
    width: int
    height: int
    frames: int
    fps: float


class Audio(Event, frozen=True, kw_only=True):
    """`add_audio`.

    Attributes:
        data: the encoded file; WAV, 16 bit, from `add_audio`.
        sample_rate: Hz.
        channels: number of channels (1 from `add_audio`).
        frames: samples a channel.
        content_type: ``"audio/wav"``.
    """

    kind: ClassVar[str] = "audio"

    data: bytes
    sample_rate: float
    channels: int
    frames: int
    content_type: str = "audio/wav"


class Text(Event, frozen=True, kw_only=True):
    """`add_text`. `tag` is the user's, without TensorBoard's ``/text_summary``. `text` is Markdown."""

    kind: ClassVar[str] = "text"

    text: str


class PRCurve(Event, frozen=True, kw_only=True):
    """`add_pr_curve`, `add_pr_curve_raw`: one entry a threshold, thresholds ascending from 0 to 1, float32 values."""

    kind: ClassVar[str] = "pr_curve"

    true_positives: tuple[float, ...]
    false_positives: tuple[float, ...]
    true_negatives: tuple[float, ...]
    false_negatives: tuple[float, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]


class Mesh(Event, frozen=True, kw_only=True):
    """`add_mesh`: point clouds (no faces) and triangle meshes.

    Attributes:
        vertices: float32, shape (batch, points, 3).
        faces: int32, shape (batch, triangles, 3), or None.
        colors: uint8, shape (batch, points, 3), RGB, or None.
        config: the ``config_dict`` as JSON text, ``"{}"`` if there is none.
    """

    kind: ClassVar[str] = "mesh"

    vertices: Array
    faces: Array | None = None
    colors: Array | None = None
    config: str = "{}"


class Embedding(Event, frozen=True, kw_only=True):
    """`add_embedding`.

    Attributes:
        matrix: shape (points, dimensions).
        metadata: one row a point, one cell a column; None if the call had none.
        metadata_header: the column names; None for a single unnamed column.
        sprite: the label images as one PNG, row by row on a square grid; None if the call had none.
        sprite_size: (width, height) in pixels of one label image.
    """

    kind: ClassVar[str] = "embedding"

    matrix: Array
    metadata: tuple[tuple[str, ...], ...] | None = None
    metadata_header: tuple[str, ...] | None = None
    sprite: bytes | None = None
    sprite_size: tuple[int, int] | None = None


class Tensor(Event, frozen=True, kw_only=True):
    """`add_tensor`, and tensor summaries of plugins that have no event of their own.

    Attributes:
        value: the tensor. bfloat16 becomes float32, complex32 complex64: exact, and numpy can hold them.
        plugin: the TensorBoard plugin that the summary names, ``"tensor"`` from `add_tensor`.
    """

    kind: ClassVar[str] = "tensor"

    value: Array
    plugin: str = "tensor"


class Graph(Event, frozen=True, kw_only=True):
    """`add_graph`, `add_onnx_graph`: `graph_def` is a serialised ``tensorboard.GraphDef``; `tag` is empty."""

    kind: ClassVar[str] = "graph"

    graph_def: bytes


class HParams(Event, frozen=True, kw_only=True):
    """`add_hparams`, `Session.log_params` and `set_summary`, and the hparams protos that Lightning, CleanRL and
    Stable-Baselines3 write.

    One trial may arrive in parts: an event with `params` and later ones with only `metrics`. Parts of one trial have
    the same `trial`.

    Attributes:
        params: name -> value. None values were dropped by TensorBoard.
        metrics: name -> float64; the run's summary metrics, logged at `step`.
        domain: name -> allowed values (``hparam_domain_discrete``).
        trial: None for the session's own parameters; else the name of the child run, unique within the session.
    """

    kind: ClassVar[str] = "hparams"

    params: dict[str, bool | int | float | str]
    metrics: dict[str, float]
    domain: dict[str, list[bool | int | float | str]] = {}
    trial: str | None = None


class CustomScalars(Event, frozen=True, kw_only=True):
    """`add_custom_scalars`, `..._multilinechart`, `..._marginchart`.

    Attributes:
        layout: category -> chart title -> (``"Multiline"`` or ``"Margin"``, tags), as `add_custom_scalars` takes it.
    """

    kind: ClassVar[str] = "custom_scalars"

    layout: dict[str, dict[str, tuple[str, list[str]]]]


Cell = Union[None, bool, int, float, str]  # noqa: UP007
"""What a cell of a table may be. Integers are of 64 bits; NaN and infinities are kept."""


class Table(Event, frozen=True, kw_only=True):
    """`Session.log_table`: `rows` have as many cells as there are `columns`, whose names are unique."""

    kind: ClassVar[str] = "table"

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


class ArtifactFile(msgspec.Struct, frozen=True):
    """A file of an artifact.

    Attributes:
        path: relative, slashes between folders; begins with the artifact's name.
        size: bytes.
        sha256: of its content, 64 hex digits.
        at: where the content is on this machine, absolute. It is gone when every tracker has it.
    """

    path: str
    size: int
    sha256: str
    at: str


class Artifact(Event, frozen=True, kw_only=True):
    """`Session.log_artifact`: files as they were at the time of the call. `tag` is the artifact's name.

    Attributes:
        category: what it is: ``"dataset"``, ``"model"``, ...; empty if nobody said.
        files: at least one.
        aliases: names that the version shall have, in trackers that keep versions.
    """

    kind: ClassVar[str] = "artifact"

    category: str
    files: tuple[ArtifactFile, ...]
    aliases: tuple[str, ...] = ()


class Model(Artifact, frozen=True, kw_only=True):
    """`Session.log_model`.

    Attributes:
        register_as: the name under which it goes into the tracker's registry; None: not at all.
    """

    kind: ClassVar[str] = "model"

    register_as: str | None = None


class Tags(Event, frozen=True, kw_only=True):
    """`Session.set_tags`: names and values, ``""`` for a bare label; a name that the run has gets the new value."""

    kind: ClassVar[str] = "tags"

    tags: dict[str, str]


class Alert(Event, frozen=True, kw_only=True):
    """`Session.alert`: `tag` is the title, `level` is ``"info"``, ``"warning"`` or ``"error"``."""

    kind: ClassVar[str] = "alert"

    text: str
    level: str


class Used(Event, frozen=True, kw_only=True):
    """`Session.use_artifact`: the run has used an artifact. `tag` is the name that it was asked for by.

    Attributes:
        tracker: the one that gave it; empty: this session had logged it itself.
        identity: what exactly it was, in the words of that tracker: ``runs:/<id>/artifacts/data``, ``team/project/data:v3``, ...
        digest: 64 hex digits: the SHA-256 of the file, or of the lines that ``sha256sum`` prints of the files of a directory.
    """

    kind: ClassVar[str] = "used"

    tracker: str
    identity: str
    digest: str


class Blob(Event, frozen=True, kw_only=True):
    """Anything else found in an event file: kept as bytes, so that nothing is dropped.

    Attributes:
        data: the bytes; usually a serialised proto.
        name: what it is, usable as a file name, e.g. ``"run_metadata.pb"``.
    """

    kind: ClassVar[str] = "blob"

    data: bytes
    name: str


class Marker(Event, frozen=True, kw_only=True):
    """TensorBoard's own book-keeping: file version, purge marker, the frame round hparams.

    It carries no user data beyond what other events carry. Only a backend that mirrors event files asks for it.

    Attributes:
        what: ``"file_version"``, ``"session_log"``, ``"hparams"``.
    """

    kind: ClassVar[str] = "marker"

    what: str


EVENT_TYPES: tuple[type[Event], ...] = (
    Scalar, Histogram, Image, Video, Audio, Text, PRCurve, Mesh, Embedding, Tensor, Graph, HParams, CustomScalars, Table,
    Artifact, Model, Tags, Alert, Used, Blob,
)  # fmt: skip
"""The event types that carry user data, in the order in which tables show them."""
