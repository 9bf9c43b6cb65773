"""How the page looks: one column, dark on light, on a screen, a phone and paper."""

__all__ = ["STYLE"]

STYLE = """
:root{color-scheme:light;--ink:#1b1f24;--soft:#57606a;--line:#d8dee4;--paper:#fff;--tint:#f4f6f8;--blue:#0072b2;
--green:#00694a;--orange:#a84300}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0 auto;padding:1.5rem 1.25rem 4rem;max-width:62rem;color:var(--ink);background:var(--paper);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,"DejaVu Sans",sans-serif}
h1{font-size:1.9rem;line-height:1.2;margin:.2em 0 .6em}
h2{font-size:1.45rem;line-height:1.25;margin:3rem 0 .8rem;padding-top:1rem;border-top:3px solid var(--ink)}
h3{font-size:1.12rem;margin:2.2rem 0 .5rem}
h4{font-size:1rem;margin:1.2rem 0 .4rem}
p,ul,dl{margin:.5rem 0 1rem;max-width:46rem}
a{color:var(--blue)}
td,th,p,li,dd,figcaption,pre{unicode-bidi:isolate}
.verdict{border-left:6px solid var(--soft);background:var(--tint);padding:.9rem 1.1rem;margin:1rem 0 1.2rem;
border-radius:0 6px 6px 0}
.verdict p,.verdict ul{margin:.25rem 0;max-width:none}
.verdict .answer{font-size:1.15rem;font-weight:600}
.verdict.yes{border-color:var(--green)}.verdict.no{border-color:var(--orange)}
.badge{padding:.05rem .6rem;margin-right:.6rem;border-radius:1rem;color:#fff;background:var(--soft)}
.yes .badge{background:var(--green)}.no .badge{background:var(--orange)}
.wide{overflow-x:auto;margin:1rem 0 .4rem}
:focus-visible{outline:2px solid var(--blue);outline-offset:2px}
table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--soft);padding-bottom:.35rem}
th,td{padding:.32rem .8rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
th:first-child,td:first-child{padding-left:0}
tbody th,thead th:first-child{text-align:left;font-weight:600}
thead th{white-space:normal;border-bottom:2px solid var(--ink);font-weight:600;vertical-align:bottom}
td.gain{color:var(--green);font-weight:600}td.loss{color:var(--orange);font-weight:600}
.bar{display:block;min-width:5.5rem;padding:0 .35rem;
background:linear-gradient(90deg,#bcdcf0 var(--share),var(--tint) var(--share))}
.note,figcaption,.soft{color:var(--soft);font-size:.88rem}
figure{margin:0}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));gap:1.2rem 2rem;
align-items:start}
.tall{grid-row:span 2}
.chart img{width:100%;max-width:34rem;height:auto;display:block}
.samples{display:grid;grid-template-columns:repeat(auto-fill,minmax(6.2rem,1fr));gap:.9rem .8rem;padding:0;
margin:.8rem 0;list-style:none;max-width:none}
.samples.words{grid-template-columns:repeat(auto-fill,minmax(min(100%,17rem),1fr))}
.samples li{border:1px solid var(--line);border-radius:6px;padding:.5rem;min-width:0;overflow-wrap:anywhere;
break-inside:avoid}
.samples img{width:100%;max-width:7rem;height:auto;display:block;margin:0 auto .35rem;image-rendering:pixelated}
.samples blockquote{margin:0 0 .35rem;font-size:.92rem}
.samples figcaption{line-height:1.35;font-size:.82rem}
.samples b{color:var(--ink)}
dl{display:grid;gap:.2rem}
dl div{display:grid;grid-template-columns:minmax(8rem,13rem) 1fr;gap:.2rem 1rem;border-bottom:1px solid var(--line);
padding:.2rem 0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
pre{background:var(--tint);padding:.7rem .9rem;border-radius:6px;white-space:pre-wrap;overflow-wrap:anywhere;
font-size:.86rem;max-width:none}
summary{cursor:pointer;color:var(--blue);margin:.6rem 0}
footer{margin-top:3rem;border-top:1px solid var(--line);padding-top:.8rem}
@media (max-width:34rem){body{padding:1rem .9rem 3rem}h1{font-size:1.5rem}h2{font-size:1.25rem}
.samples{grid-template-columns:repeat(auto-fill,minmax(4.9rem,1fr))}dl div{grid-template-columns:1fr}
table{font-size:.78rem}th,td{padding:.3rem .4rem}.bar{min-width:4rem}}
@media print{body{max-width:none;padding:0;font-size:10.5pt}summary{display:none}h2{break-before:page;margin-top:0}
h2:first-of-type{break-before:auto}h2,h3,h4{break-after:avoid}figure,tr,.verdict{break-inside:avoid}
.wide{overflow:visible}table{font-size:8pt}th,td{padding:.15rem .4rem;white-space:normal}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
"""
