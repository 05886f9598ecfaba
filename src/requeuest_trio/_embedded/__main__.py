"""
The keeper as a program: `python -I -S …/_embedded PLAN LOCK`.

It needs four modules of the standard library and this folder. An import of `requeuest_trio` in the ordinary way would
load Trio, psycopg and httpx2 first, which takes longer than PostgreSQL's start. So an empty package stands in for it.
"""

import json
import sys
from pathlib import Path
from types import ModuleType

package = ModuleType("requeuest_trio")
package.__path__ = [str(Path(__file__).resolve().parents[1])]
sys.modules["requeuest_trio"] = package

from requeuest_trio._embedded.keeper import main  # noqa: E402
from requeuest_trio._embedded.server import Plan  # noqa: E402

main(Plan(**json.loads(sys.argv[1])), int(sys.argv[2]))
