"""Whether a word looks like the name of a host: upstream asks the Public Suffix List.

Every rule of that list ends in a top-level domain, so those decide; here are all country codes and
the generic ones that repositories are found under. What this does not know is taken for a path
unless a scheme or a user says otherwise (spec/atom.md).
"""

from __future__ import annotations

_COUNTRIES = (
    "ac ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi bj bm bn bo br bs "
    "bt bv bw by bz ca cc cd cf cg ch ci ck cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec "
    "ee eg er es et eu fi fj fk fm fo fr ga gb gd ge gf gg gh gi gl gm gn gp gq gr gs gt gu gw gy "
    "hk hm hn hr ht hu id ie il im in io iq ir is it je jm jo jp ke kg kh ki km kn kp kr kw ky kz "
    "la lb lc li lk lr ls lt lu lv ly ma mc md me mg mh mk ml mm mn mo mp mq mr ms mt mu mv mw mx "
    "my mz na nc ne nf ng ni nl no np nr nu nz om pa pe pf pg ph pk pl pm pn pr ps pt pw py qa re "
    "ro rs ru rw sa sb sc sd se sg sh si sj sk sl sm sn so sr ss st su sv sx sy sz tc td tf tg th "
    "tj tk tl tm tn to tr tt tv tw tz ua ug uk us uy uz va vc ve vg vi vn vu wf ws ye yt za zm zw"
)
_GENERIC = (
    "academy agency app arpa art asia audio band beer best bio biz black blog blue build builders "
    "business cafe care cash cat center chat church city cloud club codes coffee com community "
    "company computer consulting cool coop day design dev digital direct directory earth edu "
    "education email energy engineer engineering events exchange expert foundation fun fund fyi "
    "games global gmbh gold google gov graphics green group guide guru host hosting house info ink "
    "institute int international jobs land law legal life limited link live lol ltd management map "
    "market media mil mobi moe money museum name net network news ngo ninja nrw one onl online ong "
    "ooo org page partners party photos pink pizza plus post press pro productions pub red rent "
    "rocks run school science security services sexy shop site social software solutions space "
    "store studio style support swiss systems team tech technology tel today tools top town toys "
    "training travel university vision watch web wiki win work works world wtf xxx xyz zip zone"
)
_KNOWN = frozenset(f"{_COUNTRIES} {_GENERIC}".split())


def is_host(word: str) -> bool:
    """`github.com`, `git.example.co.uk`, `127.0.0.1`; not `my.repo`."""
    name, dot, top = word.lower().rstrip(".").rpartition(".")
    if not dot or not name:
        return False
    return top in _KNOWN or top.startswith("xn--") or _is_address(word)


def _is_address(word: str) -> bool:
    parts = word.split(".")
    return len(parts) == 4 and all(part.isdigit() and len(part) < 4 for part in parts)
