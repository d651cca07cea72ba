"""The colours and the style sheet that pictures, notebooks and reports share."""

__all__ = ["PICTURE_STYLE", "REPORT_STYLE", "THEME"]

_LIGHT = """\
--ground:#ffffff;--raised:#f7f8fa;--line:#dfe3e8;--text:#1c2430;--quiet:#5d6877;--arrow:#87919f;
--link:#1f5fbf;--complete:#187a44;--failed:#c62f3f;--partial:#8f5f00;--executing:#2463c7;
--parked:#7a49c4;--delayed:#a85400;--waiting:#646f7d;--model:#3a6fd0;--tool:#946010"""

_DARK = """\
--ground:#14181e;--raised:#1c2129;--line:#323a46;--text:#e4e8ee;--quiet:#9aa5b4;--arrow:#6a7585;
--link:#7fb0ff;--complete:#4cc286;--failed:#ff6f7d;--partial:#e2ae3f;--executing:#6ea4ff;
--parked:#b58bff;--delayed:#f0964a;--waiting:#8b96a6;--model:#5f8fe6;--tool:#d9993f"""

THEME = f"""\
.asy{{{_LIGHT};color-scheme:light dark}}
@media (prefers-color-scheme:dark){{.asy{{{_DARK}}}}}
@media print{{.asy{{{_LIGHT}}}}}
[data-jp-theme-light="true"] .asy,body.vscode-light .asy{{{_LIGHT};color-scheme:light}}
[data-jp-theme-light="false"] .asy,body.vscode-dark .asy{{{_DARK};color-scheme:dark}}
"""
"""The colours as variables, light and dark. JupyterLab and VS Code mark their own themes, which may
differ from that of the system."""

_STATUS_COLOURS = "".join(
    f".asy .s-{status}{{--own:var(--{status})}}"
    for status in ("complete", "failed", "partial", "executing", "parked", "delayed", "waiting")
)

PICTURE_STYLE = f"""\
{_STATUS_COLOURS}
.asy .s-skipped,.asy .s-not-selected{{--own:var(--waiting)}}
svg.asy,.asy svg{{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",\
sans-serif}}
.asy svg text,svg.asy text{{fill:var(--text);font-size:13px}}
.asy text.quiet{{fill:var(--quiet);font-size:11px}}
.asy text.strong{{font-weight:600}}
.asy .box{{fill:var(--ground);stroke:var(--line);stroke-width:1}}
.asy .tint{{fill:var(--own,var(--waiting));fill-opacity:.08;stroke:var(--own,var(--line));\
stroke-opacity:.55}}
.asy .under{{fill:var(--ground);stroke:var(--line)}}
.asy .s-skipped .tint{{fill-opacity:0;stroke-dasharray:5 3}}
.asy .s-not-selected .tint{{fill-opacity:0;stroke-dasharray:2 3}}
.asy .s-not-selected text{{fill:var(--quiet)}}
.asy .s-failed .tint,.asy .s-parked .tint,.asy .s-partial .tint{{stroke-opacity:1;stroke-width:1.5}}
.asy .fill{{fill:var(--own,var(--waiting))}}
.asy .sign{{fill:none;stroke:var(--own,var(--waiting));stroke-width:1.8;stroke-linecap:round;\
stroke-linejoin:round}}
.asy .arrow{{fill:none;stroke:var(--arrow);stroke-width:1.3}}
.asy .head{{fill:var(--arrow);stroke:none}}
.asy .unselected{{stroke-dasharray:2 4;opacity:.7}}
.asy .spawned{{stroke-dasharray:5 4}}
.asy .loop{{stroke:var(--partial);stroke-dasharray:6 3}}
.asy .loophead{{fill:var(--partial);stroke:none}}
.asy .grid{{stroke:var(--line);stroke-width:1}}
.asy .idle{{fill:var(--raised)}}
.asy .attempt{{fill:var(--own,var(--waiting));fill-opacity:.28}}
.asy .model{{fill:var(--model)}}
.asy .tool{{fill:var(--tool)}}
.asy .bad{{fill:var(--failed)}}
.asy a:hover .tint,.asy a:focus-visible .tint{{stroke-opacity:1;stroke-width:2}}
.asy a:focus-visible{{outline:none}}
"""

REPORT_STYLE = """\
*{box-sizing:border-box}
body.asy{margin:0;background:var(--ground);color:var(--text);font:15px/1.5 system-ui,-apple-system,\
"Segoe UI",Roboto,"Liberation Sans",sans-serif;-webkit-text-size-adjust:100%}
.asy main{max-width:1180px;margin:0 auto;padding:28px 24px 64px}
.asy h1{font-size:26px;line-height:1.25;margin:0 0 6px;font-weight:650;overflow-wrap:anywhere}
.asy h2{font-size:17px;margin:38px 0 12px;font-weight:650}
.asy a{color:var(--link)}
.asy .quiet{color:var(--quiet)}
.asy .mark{display:inline-flex;align-items:center;gap:6px;color:var(--own,var(--quiet));\
font-weight:600;white-space:nowrap}
.asy .mark svg{width:18px;height:18px;flex:none}
.asy .reason{margin:12px 0 0;padding:10px 14px;border-left:3px solid var(--own,var(--line));\
background:var(--raised);border-radius:0 8px 8px 0;overflow-wrap:anywhere}
.asy .figures{display:flex;flex-wrap:wrap;gap:10px 34px;margin:22px 0 0;padding:0}
.asy .figures div{min-width:84px}
.asy .figures dt{font-size:12px;color:var(--quiet)}
.asy .figures dd{margin:0;font-size:19px;font-weight:600;font-variant-numeric:tabular-nums}
.asy .figures dd small{font-size:12px;font-weight:400;color:var(--quiet)}
.asy .facts{display:grid;grid-template-columns:fit-content(45%) minmax(0,1fr);gap:2px 16px;\
margin:18px 0 0;font-size:13px}
.asy .facts dt{color:var(--quiet);overflow-wrap:anywhere}
.asy .facts dd{margin:0;overflow-wrap:anywhere}
.asy .picture{overflow-x:auto;border:1px solid var(--line);border-radius:10px;padding:6px}
.asy .picture svg{display:block}
.asy .picture svg.fit{max-width:100%;min-width:780px;height:auto}
.asy .legend{display:flex;flex-wrap:wrap;gap:4px 18px;margin:8px 2px 0;font-size:12px;\
color:var(--quiet)}
.asy .legend span{display:inline-flex;align-items:center;gap:6px}
.asy .legend svg{width:16px;height:16px}
.asy table{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}
.asy th,.asy td{padding:6px 12px 6px 0;border-bottom:1px solid var(--line);text-align:right;\
white-space:nowrap}
.asy th{font-weight:600;color:var(--quiet);font-size:12px}
.asy th:first-child,.asy td:first-child{text-align:left;white-space:normal;overflow-wrap:anywhere}
.asy .scroll{overflow-x:auto;margin-bottom:22px}
.asy table{table-layout:fixed;min-width:560px}
.asy th:first-child{width:34%}
.asy .tools{display:flex;flex-wrap:wrap;gap:8px;margin:0 0 10px;align-items:center}
.asy .tools[hidden]{display:none}
.asy input,.asy select,.asy button{font:inherit;font-size:14px;color:inherit;\
background:var(--ground);border:1px solid var(--line);border-radius:7px;padding:5px 10px}
.asy input{flex:1 1 180px;min-width:0;max-width:340px}
.asy button{cursor:pointer}
.asy button:hover{background:var(--raised)}
.asy :focus-visible{outline:2px solid var(--link);outline-offset:2px}
.asy details.task{border-bottom:1px solid var(--line)}
.asy .many details.task{content-visibility:auto;contain-intrinsic-size:auto 42px}
.asy details.task:first-of-type{border-top:1px solid var(--line)}
.asy details.task>summary{display:grid;grid-template-columns:18px minmax(0,1fr) 7em 5.5em 11em;\
gap:10px;align-items:center;padding:9px 6px;cursor:pointer;list-style:none;border-radius:6px;\
font-variant-numeric:tabular-nums}
.asy summary::-webkit-details-marker{display:none}
.asy details.task>summary:hover{background:var(--raised)}
.asy details.task>summary svg{width:18px;height:18px;color:var(--own,var(--quiet))}
.asy .name{font-weight:600;overflow-wrap:anywhere}
.asy .name small{font-weight:400;color:var(--quiet);margin-left:8px}
.asy .state{color:var(--own,var(--quiet));font-size:13px}
.asy .number{text-align:right;font-size:13px;color:var(--quiet)}
.asy .body{padding:2px 6px 18px 34px}
.asy .body h3{font-size:12px;font-weight:600;color:var(--quiet);margin:14px 0 4px}
.asy .body p{margin:6px 0;overflow-wrap:anywhere}
.asy pre{margin:0;padding:10px 12px;background:var(--raised);border-radius:8px;font:12.5px/1.5 \
ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace;white-space:pre-wrap;\
overflow-wrap:anywhere;max-height:420px;overflow:auto;unicode-bidi:plaintext}
.asy pre.error{border-left:3px solid var(--failed);border-radius:0 8px 8px 0}
.asy .span{margin:4px 0;border-left:3px solid var(--line);padding:2px 0 2px 10px;font-size:13px}
.asy .span summary{cursor:pointer;border-radius:4px}
.asy .span summary:hover{background:var(--raised)}
.asy .span pre{margin:2px 0 10px}
.asy .span h4{margin:8px 0 2px;font-size:12px;font-weight:600;color:var(--quiet)}
.asy .span b{display:inline-block;min-width:5em;font-weight:600;color:var(--quiet)}
.asy .span b.kind-model{color:var(--model)}
.asy .span b.kind-tool{color:var(--tool)}
.asy .span i{font-style:normal;color:var(--quiet);margin:0 12px}
.asy .failures{margin:0;padding:0 0 0 18px}
.asy .failures li{margin:3px 0;overflow-wrap:anywhere}
.asy .failures a{font-weight:600;margin-right:8px}
.asy .bad-text{color:var(--failed)}
.asy footer{margin:44px 0 0;font-size:12px;color:var(--quiet)}
@media (max-width:720px){
.asy main{padding:18px 14px 48px}
.asy h1{font-size:21px}
.asy details.task>summary{grid-template-columns:18px minmax(0,1fr) auto}
.asy details.task>summary .seconds,.asy details.task>summary .tokens{display:none}
.asy .body{padding-left:8px}
}
@media print{
.asy .tools{display:none}
.asy main{max-width:none;padding:0}
.asy .picture{overflow:visible;border:0;padding:0}
.asy .picture svg{max-width:100%;height:auto}
.asy pre{max-height:none;white-space:pre-wrap}
.asy .many details.task{content-visibility:visible}
.asy details.task summary,.asy pre{break-inside:avoid}
.asy h2{break-after:avoid}
}
"""
