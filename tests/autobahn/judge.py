"""Reads the index of an Autobahn report: a table, and failure where a case went worse than it may.

Behind the gateway the suite's own server must do as well as without it. The gateway's echo does as well as
tungstenite, with which it is made: where text is no UTF-8 in the middle of a frame, that is noticed when the frame
is there. Compression (12, 13) is not implemented by the echo, nor offered where messages are seen.

A second argument names a file that gets the cases that failed.
"""

import collections
import json
import sys

# The worse, the higher; what is not here is a failure.
RANK = {"OK": 0, "INFORMATIONAL": 0, "NON-STRICT": 1, "UNIMPLEMENTED": 2}
LATE = {"6.4.3", "6.4.4"}

reports = json.load(open(sys.argv[1]))
direct = reports.pop("the suite itself", {})
failed = []


def rank(case):
    return max(RANK.get(case[key], 3) for key in ("behavior", "behaviorClose"))


def may_be(agent, name):
    if name.split(".")[0] in ("12", "13") and not (agent.startswith("tunnel") and "to the suite" in agent):
        return RANK["UNIMPLEMENTED"]
    if "to the suite" in agent and name in direct:
        return rank(direct[name])
    return RANK["NON-STRICT" if name in LATE and agent.startswith("tunnel") else "OK"]


for agent, cases in [("the suite itself", direct), *sorted(reports.items())]:
    counts = collections.Counter(case["behavior"] for case in cases.values())
    print(f"{agent:<32}", ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    for name, case in sorted(cases.items()):
        if case["behavior"] == "NON-STRICT":
            print(f"    {name}: non-strict")
        if cases is not direct and rank(case) > may_be(agent, name):
            failed.append((name, f"{agent}: {name}: {case['behavior']}, close {case['behaviorClose']}"))
passed = sum(map(len, reports.values())) - len(failed)
for _, line in failed[:20]:
    print(line)
print(f"{passed} passed, {len(failed)} failed")
if len(sys.argv) > 2:
    open(sys.argv[2], "w").write(" ".join(sorted({name for name, _ in failed})))
sys.exit(bool(failed))
