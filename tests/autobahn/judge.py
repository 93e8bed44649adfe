"""Reads the index of an Autobahn report: a table, and failure where a case went worse than it may.

OK, and NON-STRICT where a rule is kept later than it could be. Compression (12, 13) is not implemented by the
gateway's echo, nor offered where messages are seen.
"""

import collections
import json
import sys

reports = json.load(open(sys.argv[1]))
failed = []
for agent, cases in sorted(reports.items()):
    counts = collections.Counter(case["behavior"] for case in cases.values())
    print(f"{agent:<24}", ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    compresses = agent == "tunnel to the suite"
    for name, case in sorted(cases.items()):
        good = {"OK", "NON-STRICT", "INFORMATIONAL"}
        if name.split(".")[0] in ("12", "13") and not compresses:
            good.add("UNIMPLEMENTED")
        if case["behavior"] == "NON-STRICT":
            print(f"    {name}: non-strict")
        if case["behavior"] not in good or case["behaviorClose"] not in good:
            failed.append(f"{agent}: {name}: {case['behavior']}, close {case['behaviorClose']}")
print("\n".join(failed[:20]) + f"\n{len(failed)} failed" if failed else f"{sum(map(len, reports.values()))} passed, 0 failed")
sys.exit(bool(failed))
