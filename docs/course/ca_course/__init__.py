"""Checkers of the course: they say what is wrong with an answer, not what the answer is.

    from ca_course import check_3_2
    check_3_2(answer)

Answers may be numbers, text, lists, tuples, sets, NumPy arrays or SymPy expressions, whatever says the same thing.
"""

from ca_course.lesson_1 import check_1_1, check_1_2, check_1_3
from ca_course.lesson_2 import check_2_1, check_2_2, check_2_3
from ca_course.lesson_3 import check_3_1, check_3_2, check_3_3
from ca_course.lesson_4 import check_4_1, check_4_2, check_4_3
from ca_course.lesson_5 import check_5_1, check_5_2, check_5_3
from ca_course.lesson_6 import check_6_1, check_6_2, check_6_3
from ca_course.lesson_7 import check_7_1, check_7_2, check_7_3, check_7_4, check_7_5
from ca_course.lesson_8 import check_8_1, check_8_2, check_8_3
from ca_course.lesson_9 import check_9_1, check_9_2, check_9_3, check_9_4

__all__ = [
    "check_1_1",
    "check_1_2",
    "check_1_3",
    "check_2_1",
    "check_2_2",
    "check_2_3",
    "check_3_1",
    "check_3_2",
    "check_3_3",
    "check_4_1",
    "check_4_2",
    "check_4_3",
    "check_5_1",
    "check_5_2",
    "check_5_3",
    "check_6_1",
    "check_6_2",
    "check_6_3",
    "check_7_1",
    "check_7_2",
    "check_7_3",
    "check_7_4",
    "check_7_5",
    "check_8_1",
    "check_8_2",
    "check_8_3",
    "check_9_1",
    "check_9_2",
    "check_9_3",
    "check_9_4",
]
