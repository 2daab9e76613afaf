"""The looks of the page: light and dark, on a phone and on paper."""

from lmjax.drawing import COLORS

# The same hues, light enough for a dark ground.
_DARK = ("#4aa3df", "#f58442", "#35c49b", "#e3a1c6", "#a4dcff", "#f2b632", "#e6e6e6")


def _variables(colours: tuple[str, ...]) -> str:
    return "".join(f"--series-{i}:{colour};" for i, colour in enumerate(colours))


_LIGHT_PAGE = f"--ground:#fff;--ink:#1c2024;--quiet:#5c656e;--line:#d9dde1;--faint:#e3e6e9;--shade:#f5f6f7;\
--link:#0b5c9e;--right:0,114,178;--wrong:213,94,0;{_variables(COLORS)}"
_DARK_PAGE = f"--ground:#14171a;--ink:#e4e7ea;--quiet:#9aa4ae;--line:#353b42;--faint:#30363c;--shade:#1c2024;\
--link:#7cc0f2;--right:74,163,223;--wrong:245,132,66;{_variables(_DARK)}"

STYLE = (
    f":root{{color-scheme:light dark;{_LIGHT_PAGE}}}\n"
    f"@media (prefers-color-scheme:dark){{:root{{{_DARK_PAGE}}}}}\n"
    f"@media print{{:root{{color-scheme:light;{_LIGHT_PAGE}}}}}\n"
    """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0;background:var(--ground);color:var(--ink);line-height:1.5;
  font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","Liberation Sans",Arial,sans-serif;font-size:16px}
header,main,footer{max-width:76rem;margin:0 auto;padding:0 1.25rem}
header{padding-top:2.5rem}
footer{padding-bottom:2.5rem;color:var(--quiet);font-size:.85rem}
h1{overflow-wrap:anywhere;font-size:1.75rem;line-height:1.2;font-weight:650;letter-spacing:-.01em;margin:0 0 .75rem}
h2{font-size:1.2rem;line-height:1.3;font-weight:650;margin:0 0 .75rem}
h3{font-size:1rem;font-weight:650;margin:1.5rem 0 .25rem;overflow-wrap:anywhere}
section{margin:2.25rem 0;padding-top:1.5rem;border-top:1px solid var(--line)}
p{margin:.5rem 0;max-width:46rem}
a{color:var(--link)}
small{display:block;color:var(--quiet);font-size:.8rem;font-weight:400}
.note{color:var(--quiet);font-size:.85rem;overflow-wrap:anywhere}
ol.note{padding-left:1.5rem;max-width:56rem}
.hidden{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
:focus-visible{outline:2px solid var(--link);outline-offset:2px}

dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1.25rem;margin:0;font-size:.9rem}
dt{color:var(--quiet)}
dd{margin:0;overflow-wrap:anywhere}

.scroll{overflow-x:auto;margin:.5rem 0;max-width:100%;position:relative}
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--quiet);padding:.25rem 0;font-size:.85rem}
th,td{padding:.4rem .75rem;text-align:left;vertical-align:top;border-bottom:1px solid var(--line);white-space:nowrap}
thead th{vertical-align:bottom;color:var(--quiet);font-weight:500}
tbody th{font-weight:500}
.number,.numbers td,.numbers thead th:not(:first-child){text-align:right}
table.runs{width:100%;border-collapse:separate;border-spacing:0}
.runs th,.runs td{padding:.45rem .6rem}
.runs th:first-child{padding-left:0}
.runs thead th,.runs thead th:first-child{padding:0}
.runs thead th[data-kind=number]{text-align:right}
.runs button{all:unset;box-sizing:border-box;width:100%;cursor:pointer;padding:.45rem .6rem;white-space:nowrap}
.runs th:first-child button{padding-left:0}
.runs button:hover{color:var(--ink)}
.runs button:focus-visible{outline:2px solid var(--link);outline-offset:-2px}
.runs button::after{content:"";display:inline-block;width:.9em;text-align:right;font-size:.75em}
.runs [aria-sort=ascending] button::after{content:"▲"}
.runs [aria-sort=descending] button::after{content:"▼"}
.runs [aria-sort=ascending],.runs [aria-sort=descending]{color:var(--ink)}
.runs tbody th{position:sticky;left:0;background:var(--ground);min-width:10rem;max-width:18rem;white-space:normal;
  overflow-wrap:anywhere}
.runs tbody th small{padding-left:2.1rem}
.runs td.number{padding-right:1.3rem}
sup{position:absolute;font-size:.7em;line-height:1.2;padding-left:.2em}

.swatch{width:26px;height:8px;vertical-align:middle;margin-right:.25rem}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;margin:0 0 .75rem;padding:0;font-size:.875rem}
.legend li{overflow-wrap:anywhere}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));gap:1.5rem 2rem}
figure{margin:0;min-width:0;max-width:33rem}
figcaption{font-size:.85rem;color:var(--quiet);margin:.25rem 0;overflow-wrap:anywhere}
figcaption strong{color:var(--ink);font-weight:600}
.plot{display:block;width:100%;height:auto;color:var(--ink);overflow:visible}
.plot *{stroke-linejoin:round;stroke-linecap:butt}
.plot text{font-family:inherit!important}
details{margin:.5rem 0;font-size:.875rem}
summary{cursor:pointer;color:var(--link);width:max-content;max-width:100%}
details .data{font-size:.8rem}
details .data th,details .data td{padding:.2rem .6rem}

.confusion th,.confusion td{padding:.25rem .4rem;border:1px solid var(--faint);text-align:right}
.confusion td{min-width:2.4rem;text-align:center}
.confusion thead th{text-align:left;height:1px}
.confusion thead .short{text-align:center}
.confusion .long span{writing-mode:vertical-rl;transform:rotate(180deg);display:inline-block}
.confusion .right{background:rgba(var(--right),calc(.45*var(--share)))}
.confusion .wrong{background:rgba(var(--wrong),calc(.08 + .52*var(--share)))}
.confusion .none{color:var(--quiet);opacity:.6}
.pair{display:flex;flex-wrap:wrap;gap:.5rem 2.5rem}
.pair>div{min-width:0;max-width:100%}
.mistakes{flex:1 1 22rem;max-width:none;margin-top:.5rem}
.mistakes ul{list-style:none;display:grid;grid-template-columns:repeat(auto-fill,minmax(5.5rem,1fr));gap:.9rem;
  margin:.5rem 0 0;padding:0;font-size:.8rem;line-height:1.3}
.mistakes li{min-width:0;overflow-wrap:anywhere}
.mistakes li span{display:inline}
.mistakes img{display:block;width:64px;height:64px;object-fit:contain;margin-bottom:.3rem;image-rendering:pixelated}

@media (max-width:40rem){
  header,main,footer{padding-left:1rem;padding-right:1rem}
  header{padding-top:1.5rem}
  h1{font-size:1.4rem}
  dl{grid-template-columns:1fr;gap:0}
  dd{margin-bottom:.4rem}
  .runs tbody th{min-width:7rem;max-width:8.5rem}
  .runs tbody th .swatch{display:block}
  .runs tbody th small{padding-left:0}
}
@media print{
  @page{margin:14mm}
  body{font-size:10pt}
  header,main,footer{max-width:none;padding:0}
  section{break-inside:auto}
  figure,tr,li,h2,h3{break-inside:avoid}
  h2,h3{break-after:avoid}
  .scroll{overflow:visible}
  .runs tbody th{position:static}
  .runs th,.runs td,.runs button{padding:.15rem .3rem;white-space:normal}
  .runs td.number{padding-right:.3rem}
  .runs button::after{content:none!important}
  .runs{font-size:7.5pt}
  .runs small{font-size:7pt}
  details:not([open]){display:none}
  *{print-color-adjust:exact;-webkit-print-color-adjust:exact}
}
"""
)
