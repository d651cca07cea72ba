"""The style sheet and the script of the pages of runs. Both are inline, allowed by their hashes."""

from asimov_sync.display.report import STYLE as REPORT_STYLE

__all__ = ["SCRIPT", "STYLE"]

STYLE = (
    REPORT_STYLE
    + """\
.asy main{padding-top:18px}
.asy .bar{display:flex;flex-wrap:wrap;gap:6px 18px;align-items:center;margin:0 0 22px;\
font-size:13px;color:var(--quiet)}
.asy .bar a{text-decoration:none}
.asy .bar a:hover{text-decoration:underline}
.asy .bar .space{flex:1}
.asy .pulse{display:inline-flex;align-items:center;gap:6px}
.asy .pulse:empty{display:none}
.asy .pulse:before{content:"";width:8px;height:8px;border-radius:50%;background:var(--waiting)}
.asy .pulse.on:before{background:var(--complete);animation:asy-pulse 2.4s ease-in-out infinite}
.asy .pulse.lost:before{background:var(--failed)}
@keyframes asy-pulse{50%{opacity:.35}}
@media (prefers-reduced-motion:reduce){.asy .pulse.on:before{animation:none}}
.asy .note{margin:14px 0 0;padding:10px 14px;border:1px solid var(--line);border-radius:8px;\
background:var(--raised);font-size:14px;overflow-wrap:anywhere}
.asy .note.good{border-left:3px solid var(--complete)}
.asy .note.bad{border-left:3px solid var(--failed)}
.asy code{font:12.5px ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace;\
background:var(--raised);border-radius:5px;padding:1px 5px;overflow-wrap:anywhere}
.asy section:empty{display:none}
.asy .wait{border:1px solid var(--line);border-left:3px solid var(--parked);border-radius:0 10px \
10px 0;padding:14px 18px 16px;margin:0 0 14px}
.asy .wait h3{font-size:15px;margin:0 0 2px;font-weight:650;overflow-wrap:anywhere}
.asy .wait .about{margin:0 0 10px;font-size:13px;color:var(--quiet);overflow-wrap:anywhere}
.asy .wait .prompt{margin:8px 0;white-space:pre-wrap;overflow-wrap:anywhere;max-height:420px;\
overflow:auto}
.asy .wait pre{margin:8px 0}
.asy .wait details{margin:8px 0;font-size:14px}
.asy .wait summary{cursor:pointer;color:var(--link)}
.asy .field{display:block;margin:12px 0 0}
.asy .field label{display:block;font-size:13px;font-weight:600;margin:0 0 4px}
.asy .field label .quiet{font-weight:400}
.asy .field input,.asy .field select,.asy .field textarea{width:100%;max-width:560px;display:block}
.asy textarea{font:inherit;font-size:14px;color:inherit;background:var(--ground);border:1px solid \
var(--line);border-radius:7px;padding:6px 10px;resize:vertical}
.asy textarea.code{font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",\
monospace;max-width:100%}
.asy .hint{margin:3px 0 0;font-size:12px;color:var(--quiet)}
.asy .buttons{display:flex;flex-wrap:wrap;gap:8px;margin:14px 0 0}
.asy .buttons form{display:contents}
.asy button.main{background:var(--link);border-color:var(--link);color:var(--ground);\
font-weight:600}
.asy button.main:hover{filter:brightness(1.08)}
.asy button.stop{color:var(--failed)}
.asy .now{list-style:none;margin:0;padding:0}
.asy .now li{padding:8px 0;border-bottom:1px solid var(--line)}
.asy .now .line{display:flex;gap:10px;align-items:baseline}
.asy .now .line .name{flex:1;min-width:0}
.asy .now .line svg{width:16px;height:16px;flex:none;align-self:center}
.asy .now .tail{margin:4px 0 0 26px;font-size:13px;color:var(--quiet);white-space:pre-wrap;\
overflow-wrap:anywhere;max-height:4.5em;overflow:hidden;display:flex;flex-direction:column-reverse}
.asy progress{width:100%;max-width:320px;height:6px;margin:6px 0 0 26px;accent-color:\
var(--executing)}
.asy .rows{border-top:1px solid var(--line)}
.asy .row{display:grid;grid-template-columns:18px minmax(0,1fr) 7em 5.5em 11em;gap:10px;\
align-items:center;padding:9px 6px;border-bottom:1px solid var(--line);border-radius:6px;\
color:inherit;text-decoration:none;font-variant-numeric:tabular-nums}
.asy .row:hover{background:var(--raised)}
.asy .task-page{padding:0}
.asy .task-page .facts{margin:10px 0}
.asy .task-page #s-head{display:flex;flex-wrap:wrap;gap:4px 14px;align-items:center;font-size:14px}
.asy .row svg{width:18px;height:18px}
.asy .row .why{grid-column:2/-1;margin:-6px 0 0;font-size:12.5px;color:var(--quiet);\
overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.asy .row.s-failed .why{color:var(--failed)}
.asy .filters{display:flex;flex-wrap:wrap;gap:10px 14px;align-items:end;margin:0 0 18px}
.asy .filters label{display:block;font-size:12px;color:var(--quiet)}
.asy .filters input{display:block;max-width:220px;margin-top:3px}
.asy .chips{display:flex;flex-wrap:wrap;gap:6px;margin:16px 0 14px;padding:0}
.asy .chip{display:inline-flex;align-items:center;gap:6px;border:1px solid var(--line);\
border-radius:999px;padding:3px 12px 3px 9px;font-size:13px;text-decoration:none;color:inherit}
.asy .chip svg{width:15px;height:15px}
.asy .chip b{font-weight:600;font-variant-numeric:tabular-nums}
.asy .chip:hover{background:var(--raised)}
.asy .chip.on{background:var(--raised);border-color:var(--own,var(--text));box-shadow:inset 0 0 0 \
1px var(--own,var(--text))}
.asy .runs .row{grid-template-columns:18px minmax(0,1fr) 7em 5.5em 12.5em}
.asy .tag{display:inline-block;font-size:12px;color:var(--quiet);background:var(--raised);\
border-radius:5px;padding:0 6px;margin-left:8px;font-weight:400;overflow-wrap:anywhere}
.asy .pager{display:flex;gap:14px;margin:16px 0 0;font-size:14px}
.asy .empty{padding:34px 0;text-align:center;color:var(--quiet)}
@media (max-width:720px){
.asy .row,.asy .runs .row{grid-template-columns:18px minmax(0,1fr) auto}
.asy .row .seconds,.asy .row .tokens{display:none}
.asy .filters input{max-width:none}
.asy .filters label{flex:1 1 100%}
}
@media print{.asy .bar,.asy .filters,.asy .buttons,.asy .wait form{display:none}}
"""
)

SCRIPT = """\
(function () {
  var main = document.querySelector('main');
  var pulse = document.querySelector('.pulse');
  var offset = Number(main.dataset.now) * 1000 - Date.now();

  function show(state, text) {
    if (!pulse) return;
    pulse.className = 'pulse ' + state;
    pulse.textContent = text;
  }
  function isBusy(element) {
    return element.contains(document.activeElement) || element.querySelector('[data-edited]');
  }
  function parse(html) {
    var template = document.createElement('template');
    template.innerHTML = html;
    return template.content.firstElementChild;
  }
  function patch(list, keys, items) {
    var known = Object.create(null);  // a run may be called "constructor"
    Array.prototype.forEach.call(list.children, function (child) {
      known[child.dataset.key] = child;
    });
    Object.keys(items).forEach(function (key) {
      var fresh = parse(items[key]);
      var old = known[key];
      if (!old) list.appendChild(fresh);
      else if (old.outerHTML !== fresh.outerHTML && !isBusy(old)) list.replaceChild(fresh, old);
    });
    if (keys) Object.keys(known).forEach(function (key) {
      if (keys.indexOf(key) < 0) list.removeChild(known[key]);
    });
    if (keys) keys.forEach(function (key, index) {
      var child = list.querySelector('[data-key="' + CSS.escape(key) + '"]');
      var at = list.children[index];
      if (child && child !== at) list.insertBefore(child, at || null);
    });
  }
  function apply(update) {
    Object.keys(update.sections).forEach(function (name) {
      var section = document.getElementById('s-' + name);
      if (!section || isBusy(section)) return;
      var boxes = section.querySelectorAll('.picture');
      var lefts = Array.prototype.map.call(boxes, function (box) { return box.scrollLeft; });
      var open = Array.prototype.map.call(section.querySelectorAll('details'),
        function (details) { return details.open; });
      section.innerHTML = update.sections[name];
      section.querySelectorAll('details').forEach(function (details, index) {
        if (index in open) details.open = open[index];
      });
      section.querySelectorAll('.picture').forEach(function (box, index) {
        box.scrollLeft = lefts[index] || 0;
      });
    });
    Object.keys(update.lists).forEach(function (name) {
      var list = document.getElementById('l-' + name);
      if (list) patch(list, update.lists[name].keys, update.lists[name].items);
    });
    if (update.title) document.title = update.title;
    tick();
  }
  function tick() {
    document.querySelectorAll('[data-since]').forEach(function (element) {
      var seconds = Math.max(0, (Date.now() + offset) / 1000 - Number(element.dataset.since));
      var minutes = Math.floor(seconds / 60);
      element.textContent = minutes ? minutes + ' min ' + Math.floor(seconds % 60) + ' s' :
        Math.floor(seconds) + ' s';
    });
  }
  document.addEventListener('input', function (event) {
    var form = event.target.closest('form');
    if (form) form.setAttribute('data-edited', '');
  });
  setInterval(tick, 1000);

  function ask() {
    if (document.hidden) return;
    fetch(main.dataset.poll, {headers: {Accept: 'application/json'}}).then(function (reply) {
      if (!reply.ok) throw new Error(reply.status);
      return reply.json();
    }).then(function (update) {
      show('on', 'live');
      apply(update);
    }).catch(function () { show('lost', 'not live: reload the page'); });
  }
  if (main.dataset.poll) setInterval(ask, 3000);

  var address = main.dataset.live;
  if (!address) return;
  var last = main.dataset.sequence;
  var source = null;
  function open() {
    if (source || document.hidden) return;
    source = new EventSource(address + (address.indexOf('?') < 0 ? '?' : '&') + 'after=' + last);
    source.addEventListener('open', function () { show('on', 'live'); });
    source.addEventListener('update', function (event) {
      last = event.lastEventId || last;
      show('on', 'live');
      apply(JSON.parse(event.data));
    });
    source.addEventListener('end', function () {
      close();
      main.dataset.live = address = '';
      show('', 'ended');
    });
    source.addEventListener('error', function () {
      if (!source) return;
      if (source.readyState === EventSource.CLOSED) {
        show('lost', 'not live: reload the page');
      }
    });
  }
  function close() {
    if (source) source.close();
    source = null;
  }
  document.addEventListener('visibilitychange', function () {
    if (document.hidden) close();
    else if (address) open();
  });
  addEventListener('pagehide', close);
  addEventListener('pageshow', function (event) { if (event.persisted && address) open(); });
  open();
})();
"""
