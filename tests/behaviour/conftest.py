import pytest

from behaviour.support import Gates


@pytest.fixture
def gates(tmp_path):
    return Gates(tmp_path / "gates")
