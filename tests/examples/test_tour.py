"""examples/tour.ipynb runs in a real Jupyter kernel, cell by cell."""

import json
import pathlib

import pytest

from ..optional_packages import import_or_skip
from ..tiers import suite
from ..waiting import DEADLINE

pytestmark = suite

NOTEBOOK = pathlib.Path(__file__).parent.parent.parent / "examples" / "tour.ipynb"


@pytest.fixture
def run_cell():
    """Runs code in a kernel; returns the outputs by MIME type, those of updates included."""
    import_or_skip("ipykernel")
    manager = import_or_skip("jupyter_client").KernelManager()
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=2 * DEADLINE)

    def run(code):
        outputs = []

        def collect(message):
            content = message["content"]
            if message["msg_type"] == "stream":
                outputs.append({"text/plain": content["text"]})
            elif "data" in content:
                outputs.append(content["data"])

        reply = client.execute_interactive(code, output_hook=collect, timeout=2 * DEADLINE)
        assert reply["content"]["status"] == "ok", reply["content"]
        return outputs

    yield run
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def test_the_notebook_runs(run_cell):
    """Each cell succeeds: pictures, progress, tables, a continued run and a report appear."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    outputs = [run_cell("".join(cell["source"])) for cell in cells if cell["cell_type"] == "code"]
    texts = ["\n".join(data["text/plain"] for data in cell) for cell in outputs]
    pages = ["\n".join(data.get("text/html", "") for data in cell) for cell in outputs]
    (_, graph, progress, failure, agent, stream, interrupted, continued, report, _) = range(10)
    assert "<svg" in pages[graph]
    assert "weather: 9 tasks finished after 0:0" in texts[progress]
    assert '<progress value="9" max="9"' in pages[progress] and "<table" in pages[progress]
    assert "In short: Oslo: rain all day." in texts[progress]
    assert "weather is PARTIAL after 0:0" in texts[failure] and "KeyError" in pages[failure]
    assert "In Oslo it is rain. Take a coat." in pages[agent]
    assert "rains " in texts[stream]
    assert "the same call with run_id='pages-1' continues it" in texts[interrupted]
    assert "'---', 'page[2]', 'page[3]', 'page[4]', 'page[5]']" in texts[continued]
    saved = pathlib.Path(texts[report].strip())
    assert saved.read_text(encoding="utf-8").startswith("<!")


def test_the_notebook_has_no_outputs():
    """The file holds no outputs and no numbers of executions, and the code fits its lines."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        assert all(len(line.rstrip("\n")) <= 100 for line in cell["source"])
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            assert compile("".join(cell["source"]), "tour.ipynb", "exec")
