"""The judgement under noise: what to keep, what to run once more, what to stop, what to try next. Pure words: no door is opened here."""

from overnight.judge.judging import estimate as estimate
from overnight.judge.judging import judge as judge
from overnight.judge.judging import next_seed as next_seed
from overnight.judge.learn import learn_anew as learn_anew
from overnight.judge.learn import learn_audit as learn_audit
from overnight.judge.learn import learn_result as learn_result
from overnight.judge.learn import learn_run as learn_run
from overnight.judge.learn import learn_taken_back as learn_taken_back
from overnight.judge.records import FINAL as FINAL
from overnight.judge.records import KEPT as KEPT
from overnight.judge.records import Action as Action
from overnight.judge.records import Budget as Budget
from overnight.judge.records import Knowledge as Knowledge
from overnight.judge.records import Node as Node
from overnight.judge.records import Rules as Rules
from overnight.judge.records import Run as Run
from overnight.judge.records import Verdict as Verdict
