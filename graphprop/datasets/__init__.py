"""Explaining data sets: from a folder of pictures, or a million, to a store of maps."""

from importlib.util import find_spec

from graphprop.errors import OutputError

NEEDED = ("zarr", "h5py", "pyarrow", "webdataset")
"""What is installed with the extra."""

_missing = [name for name in NEEDED if find_spec(name) is None]
if _missing:
    raise OutputError(
        f"explaining a data set needs {', '.join(_missing)}: pip install 'graphprop[data]'"
    )

from graphprop.datasets.iterate import iterate_explanations  # noqa: E402
from graphprop.datasets.run import Explained, explain_dataset  # noqa: E402
from graphprop.datasets.summary import Summary, summarize  # noqa: E402

__all__ = ["Explained", "Summary", "explain_dataset", "iterate_explanations", "summarize"]
