"""The run directory: the only link between training and everything that looks at it."""

from tunesmith.runs.atomic import (
    append_line,
    atomic_folder,
    atomic_write,
    disk_errors,
    recover,
    remove_folder,
    require_free,
)
from tunesmith.runs.calibration_plot import CalibrationPoint, plot_calibration
from tunesmith.runs.confusion_plot import plot_confusion
from tunesmith.runs.kept import file_sha256, keep_result, kept_result, read_json, without_nonfinite
from tunesmith.runs.listing import list_runs
from tunesmith.runs.metrics import TASK_LOSS, MetricsLog
from tunesmith.runs.plots import plot_run
from tunesmith.runs.schedule_plot import plot_schedule
from tunesmith.runs.size_plot import SizePoint, plot_sizes
from tunesmith.runs.store import Run, is_writer

__all__ = [
    "TASK_LOSS",
    "CalibrationPoint",
    "MetricsLog",
    "Run",
    "SizePoint",
    "append_line",
    "atomic_folder",
    "atomic_write",
    "disk_errors",
    "file_sha256",
    "is_writer",
    "keep_result",
    "kept_result",
    "list_runs",
    "plot_calibration",
    "plot_confusion",
    "plot_run",
    "plot_schedule",
    "plot_sizes",
    "read_json",
    "recover",
    "remove_folder",
    "require_free",
    "without_nonfinite",
]
