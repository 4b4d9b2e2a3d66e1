"""Two conversations in which the model is asked to repeat a text with small changes.

The first is an edit of a notice that was edited before: the model repeats nearly all of it. The second is the
first edit of a piece of code: the model repeats about half of it in its own words.
"""

NOTICE = """\
Dear residents, the library on Mill Street will be closed from Monday the third to Friday the seventh of
June. During this week the heating will be repaired, the reading room will be painted and new shelves will
be put up in the children's department. Books that are due in this week can be returned until the following
Wednesday without a fee. The box beside the main door stays open day and night. Reserved books can be
collected at the town hall, on the ground floor, from nine in the morning until noon. The reading group
meets as always on Thursday evening, but in the café opposite the station. The story hour for small children
will not take place. From Monday the tenth of June the library is open again at the usual hours: from ten
until six on weekdays and from ten until two on Saturdays. On this first day we invite everybody to coffee
and cake and show the new department. If you have questions, write to us or call the town hall. We thank you
for your patience and look forward to your visit. The team of the library on Mill Street.
""".strip().replace("\n", " ")
CODE = '''def read_config(path):
    """Read a configuration file and return its values."""
    values = {}
    with open(path) as file:
        for line in file:
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            name, _, value = line.partition("=")
            values[name.strip()] = value.strip()
    return values


def write_config(path, values):
    """Write the values of a configuration to a file."""
    with open(path, "w") as file:
        for name in sorted(values):
            file.write(name + " = " + values[name] + "\\n")


def merge_config(first, second):
    """Return the values of both configurations; the second one wins."""
    merged = dict(first)
    for name, value in second.items():
        if value != "":
            merged[name] = value
    return merged
'''


def _conversation(*turns: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


CONVERSATIONS = {
    "notice": _conversation(
        f"Here is a notice. Please write it with July in the place of June:\n\n{NOTICE}",
        NOTICE.replace("June", "July"),
        "Please write it with August in the place of July.",
    ),
    "code": _conversation(
        "Rename the variable values to settings in this code and write the whole code again:\n\n"
        f"```python\n{CODE}```"
    ),
}
