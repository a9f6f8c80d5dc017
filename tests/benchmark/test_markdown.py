import pytest

from ibnvision.benchmark import markdown, record


def test_table_has_a_head_alignment_and_row_names():
    text = markdown.to_html("| a   | b < c |\n| --- | ----: |\n| `x` |   **1** |", about="<t>")
    assert '<th scope="col" class="left">a</th><th class="right">b &lt; c</th>' in text
    assert '<th scope="row" class="left"><code>x</code></th>' in text
    assert '<td class="right"><strong>1</strong></td>' in text
    assert 'aria-label="&lt;t&gt;"' in text


def test_the_tables_of_records_are_tables():
    text = markdown.to_html(record.table(["a", "b"], [["1", "2"]]))
    assert '<th scope="row" class="left">1</th><td class="right">2</td>' in text


def test_a_ragged_table_is_an_error():
    with pytest.raises(ValueError):
        markdown.to_html("| a | b |\n| --- | --- |\n| 1 |")


def test_a_cell_with_a_sentence_may_wrap():
    text = markdown.to_html(f"| a | b |\n| --- | --: |\n| 1 | {'word ' * 9}|")
    assert '<td class="words">word' in text


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("a < b & c", "a &lt; b &amp; c"),
        ("`a < *b*` and *c*", "<code>a &lt; *b*</code> and <em>c</em>"),
        ("**bold**, **two words**", "<strong>bold</strong>, <strong>two words</strong>"),
        ("2 * 3 * 4, a*b*c", "2 * 3 * 4, a*b*c"),
        ("a lone ` tick < `", "a lone <code> tick &lt; </code>"),
        ("a lone ` tick", "a lone ` tick"),
        ('<script src="x">', "&lt;script src=&quot;x&quot;&gt;"),
    ],
)
def test_inline(text, made):
    assert markdown.inline(text) == made


def test_blocks_of_other_kinds():
    text = "**Title**\n\nOne\ntwo.\n\n- a\n- b < c\n\n![words](x.png)\n\n![other](y.png)"
    made = markdown.to_html(text, {"x.png": "<svg></svg>"})
    assert made.splitlines() == [
        "<h3>Title</h3>", "<p>One", "two.</p>", "<ul><li>a</li><li>b &lt; c</li></ul>",
        "<svg></svg>", "<p>other</p>",
    ]  # fmt: skip
