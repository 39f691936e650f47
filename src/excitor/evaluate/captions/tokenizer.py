"""Penn Treebank tokens without Java.

The published scores of image captions are computed on the tokens of Stanford's PTBTokenizer (CoreNLP 3.4.1, options
``-preserveLines -lowerCase``), from which coco-caption then drops punctuation
(https://github.com/tylin/coco-caption). This module gives those tokens for English captions. Its quirks are kept, as
scores depend on them: brackets survive as ``-lrb-``, runs such as ``!!`` survive although a single ``!`` is dropped,
``can't`` is ``ca n't``, ``street.a`` is one word.
"""

import re
from functools import lru_cache


PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])

# Abbreviations keep their period.
_TITLES = """mr mrs ms messrs mme mlle dr drs prof rev hon gen col sgt cpl spc pfc pvt lt capt maj cmdr comdr adm brig
    sen sens rep reps gov pres supt atty det insp msgr jr sr esq ph"""
_PLACES = "st ste ave blvd rd bldg ct sq ft mt"
_STATES = "ala ariz calif colo conn fla ga ind kan ky md mich minn mo mont neb nev okla penn tenn va vt wis wyo"
_DATES = "jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri"
_OTHERS = "al assn assoc bancorp bhd bros cf co corp cos dept est etc ext inc intl ltd mfg natl sys tel univ vs"
_ABBREVIATION = "|".join(" ".join([_TITLES, _PLACES, _STATES, _DATES, _OTHERS]).split())
_CAPITALISED = "Ark|Del|Ill|La|Mass|Miss|Ore|Pa|Tex|Wash"  # without a capital they are words at a sentence's end

_LETTER = r"[^\W\d_²³]"
_WORD = rf"{_LETTER}(?:{_LETTER}|\d)*"
_HYPHENATED = r"[^\W_](?:[^\W_]|[%.,])*(?:-(?:[^\W_]+|(?:[a-z]\.)+(?![a-z0-9])))+"
_CLITIC = r"['’](?:s|m|d|ll|re|ve)(?![a-z])"
_NOT = r"n['’]t(?![a-z])"
_ADDRESS = r"""[^\s"<>|]*[^\s"<>|.!?,;:()'-]"""

# Tried within one run of non-spaces. The first alternative that fits wins: a longer reading stands before a shorter.
_TOKEN = re.compile(
    rf"""
      </?[a-z][^<>\s/]*/?>                                                  # markup
    | (?:https?://|www\.){_ADDRESS} | (?:[\w-]+\.)+(?:com|net|org|edu)(?!\w)(?:/{_ADDRESS})?
    | [\w.+-]+@[\w-]+(?:\.[\w-]+)* | @[a-z_]\w* | \#[a-z_]+
    | [<>]?[:;=][-o*']?(?:[)(\\|@{{\[\]]|(?-i:[dpDPO])(?![a-z]))            # smileys
    | (?:can(?=not)|(?:gon|wan)(?=na)|got(?=ta)|(?:lem|gim)(?=me))(?=\w{{2,3}}(?![\w-]))
    | ['’]t(?=(?:is|was)(?!\w))
    | {_LETTER}+?(?={_NOT}) | {_NOT} | {_CLITIC}                            # do n't, dog 's
    | ['’]n['’] | ['’](?:n|em|cause|till?)(?!\w) | (?<!\w)['’](?:[2-9]0s|\d\d)(?!\w)
    | (?:c['’]mon|d['’](?:ye|ya|you)|ha['’]aretz|ma['’]am|more(?=['’]n)|nor['’]easter|s['’]mores)(?!\w)
    | (?:dunkin|ol|somethin)['’](?!\w) | (?:y|(?-i:j))['’](?=[a-z])
    | [a-z]*[aeiouy]['’][aeiou][a-z]* | (?:[dlno]|(?-i:[A-HJ-XZ]))['’]{_LETTER}{{2}}\w*
    | \d+/\d+/\d+(?!\w) | (?:\d+-)?\d+/\d+(?!\w)                            # dates and fractions
    | {_HYPHENATED}
    | (?:[a-z]\.)+[a-z](?![a-z0-9.]) | (?:[a-z]\.)+(?![a-z]) | ph\.d\.      # t.v and t.v.
    | (?:{_ABBREVIATION}|(?-i:{_CAPITALISED}))\.(?!\w)
    | [a-z0-9]+(?:-[a-z]+){{0,2}}(?:/[a-z0-9]+(?:-[a-z]+){{0,2}}){{1,2}}    # and/or
    | (?-i:[A-Z]+(?:[+&][A-Z]+)+)                                           # AT&T
    | {_WORD}(?:_[^\W_]+)+
    | {_WORD}\.(?=[,;:])                                                    # "bat.," is read as an abbreviation
    | {_WORD}(?:[.!?]{_WORD})*                                              # "park", and "street.a" is one word
    | \d+{_LETTER}+\w*                                                      # 10am
    | [-+]?(?:\d+(?:[.,:]\d+)*|(?:[.,]\d+)+)                                # 1,000
    | \.\.\. | [!?]+ | \*+ | _+ | '' | ``
    | [^\s\u200b\ufe0f\U00010000-\U0010ffff-]                               # emoji and dashes are dropped
    """,
    re.VERBOSE | re.IGNORECASE,
)
_REWRITTEN = str.maketrans(
    {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
    | dict.fromkeys('"“”«»‘’`', "'")
    | dict.fromkeys("–—―‐‑", "--")
    | {"…": "...", "½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3", "£": "#", "€": "$", "¢": "cents"}
)


def tokenize(caption: str) -> list[str]:
    """The lower-cased tokens of a caption, without punctuation.

    Example:
        >>> tokenize("A man's T-shirt, in St. Paul.")
        ['a', 'man', "'s", 't-shirt', 'in', 'st.', 'paul']
    """
    return [token for chunk in caption.split() for token in _tokenize_chunk(chunk)]


@lru_cache(maxsize=1 << 17)  # captions share most of their words
def _tokenize_chunk(chunk: str) -> tuple[str, ...]:
    tokens = (token.lower().translate(_REWRITTEN) for token in _TOKEN.findall(chunk))
    return tuple(token for token in tokens if token not in PUNCTUATION)
