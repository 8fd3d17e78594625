from pathlib import Path

from paste.deploy import loadapp

application = loadapp("config:site.ini", relative_to=str(Path(__file__).parent))
