"""Which tests are for what: the binary, or an image (ATRIO_TEST_IMAGE)."""

import pytest

from harness import IMAGE

collect_ignore = [] if IMAGE else ["image"]


def pytest_collection_modifyitems(items):
    """What a container cannot show of the binary is skipped with its reason, the mark's argument; and the other way round."""
    for item in items:
        if mark := item.get_closest_marker("binary" if IMAGE else "image"):
            item.add_marker(pytest.mark.skip(reason=mark.args[0]))
