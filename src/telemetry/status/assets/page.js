'use strict';
// Text from registries is untrusted: it is only ever set as text, never as markup.
(() => {
  const $ = id => document.getElementById(id);
  const SVG = 'http://www.w3.org/2000/svg';
  const STATES = ['active', 'warming', 'weightless', 'ejected', 'probing'];
  const SHAPES = { // Each state has a shape of its own, for those who cannot tell the colours apart.
    active: 'M6 1a5 5 0 1 1 0 10A5 5 0 0 1 6 1Z',
    warming: 'M6 1a5 5 0 0 0 0 10Z|r',
    weightless: '|r',
    ejected: 'M2.6 1 6 4.4 9.4 1 11 2.6 7.6 6 11 9.4 9.4 11 6 7.6 2.6 11 1 9.4 4.4 6 1 2.6Z',
    probing: 'M6 3.6a2.4 2.4 0 1 1 0 4.8 2.4 2.4 0 0 1 0-4.8Z|r',
  };
  const COLUMNS = [
    ['id', 'Endpoint', 'key text'], ['state', 'State', 'st text'], ['weight', 'Weight', ''], ['share', 'Share', ''],
    ['rate', 'Requests/s', ''], ['load', 'Load', 'wide'], ['in_flight', 'In flight', ''], ['latency', 'Latency p50 / p99', 'sp'],
    ['requests', 'Requests', 'wide'], ['failures', 'Failures', ''], ['ejections', 'Ejections', 'wide'], ['age', 'Age', 'wide widest'],
  ];
  // A phone shows an endpoint as a card: fewer of them at a time.
  const view = { service: '', sort: 'id', order: 'asc', filter: '', state: '', offset: 0, limit: matchMedia('(max-width: 700px)').matches ? 12 : 50 };
  const open = new Set();
  let token = null, source = null, timer = 0, heard = 0, data = null, every = 1000;

  // --- small helpers
  const make = (name, props = {}, ...kids) => {
    const e = document.createElement(name);
    for (const [k, v] of Object.entries(props)) {
      if (k === 'class') e.className = v;
      else if (k.startsWith('on')) e.addEventListener(k.slice(2), v);
      else if (v !== undefined) e.setAttribute(k, v);
    }
    e.append(...kids);
    return e;
  };
  const text = (e, value) => { value = String(value); if (e.textContent !== value) e.textContent = value; };
  const attr = (e, name, value) => { if (e.getAttribute(name) !== value) e.setAttribute(name, value); };
  const dot = state => {
    const svg = document.createElementNS(SVG, 'svg');
    svg.setAttribute('viewBox', '0 0 12 12');
    svg.setAttribute('aria-hidden', 'true');
    svg.classList.add('dot', state);
    const [d, ring] = (SHAPES[state] || SHAPES.active).split('|');
    if (d) svg.append(node('path', { d }));
    if (ring) svg.append(node('circle', { cx: 6, cy: 6, r: 4.4, class: 'ring' }));
    return svg;
  };
  const node = (name, props) => {
    const e = document.createElementNS(SVG, name);
    for (const [k, v] of Object.entries(props)) e.setAttribute(k, v);
    return e;
  };
  const whole = n => Math.round(n).toLocaleString('en');
  const short = n => n >= 1e9 ? (n / 1e9).toFixed(1) + ' G' : n >= 1e6 ? (n / 1e6).toFixed(1) + ' M' : n >= 1e5 ? (n / 1e3).toFixed(0) + ' k' : whole(n);
  const rate = n => n >= 1e5 ? short(n) : n >= 100 ? whole(n) : n > 0 ? n.toFixed(1) : '0';
  const percent = (x, digits) => (100 * x).toFixed(digits ?? (x > 0 && x < 0.0995 ? 2 : 1)) + ' %';
  const ms = x => x == null ? '–' : x >= 9950 ? (x / 1000).toFixed(1) + ' s' : x >= 99.5 ? x.toFixed(0) + ' ms' : x >= 9.95 ? x.toFixed(1) + ' ms' : x.toFixed(2) + ' ms';
  const pair = l => { // One unit where both have the same.
    if (!l) return '–';
    const [a, b] = [ms(l.p50_ms).split(' '), ms(l.p99_ms).split(' ')];
    return a[1] === b[1] ? `${a[0]} / ${b[0]} ${b[1]}` : `${a.join(' ')} / ${b.join(' ')}`;
  };
  const span = s => s < 10 ? s.toFixed(1) + ' s' : s < 120 ? Math.floor(s) + ' s' : s < 7200 ? Math.floor(s / 60) + ' min' : s < 172800 ? Math.floor(s / 3600) + ' h' : Math.floor(s / 86400) + ' d';
  const load = x => x == null ? '–' : x === 0 ? '0' : x >= 1000 ? whole(x) : x >= 1 ? x.toPrecision(4).replace(/\.?0+$/, '') : x.toPrecision(3);
  const list = (parent, items, key, create, update) => {
    // Nodes are kept by key, so that focus and selection survive each update.
    const old = parent.nodes || new Map(), now = new Map();
    const focus = document.activeElement;
    let at = parent.firstChild;
    for (const item of items) {
      const id = key(item);
      if (now.has(id)) continue;
      const e = old.get(id) || create(item);
      update(e, item);
      now.set(id, e);
      for (const one of [].concat(e.parts || e)) {
        if (one === at) at = at.nextSibling; else parent.insertBefore(one, at);
      }
    }
    for (const [id, e] of old) if (!now.has(id)) for (const one of [].concat(e.parts || e)) one.remove();
    parent.nodes = now;
    if (focus && focus !== document.activeElement && focus.isConnected) focus.focus({ preventScroll: true });
  };

  // --- charts
  const line = (values, top, w, h) => {
    let d = '', pen = 'M';
    const n = Math.max(values.length - 1, 1), wide = Math.max(59, n);
    values.forEach((v, i) => {
      if (v == null) { pen = 'M'; return; }
      d += `${pen}${(w - (n - i) * w / wide).toFixed(1)} ${(h - Math.min(v / top, 1) * (h - 2) - 1).toFixed(1)}`;
      pen = 'L';
    });
    return d;
  };
  const under = (values, top, w, h) => {
    const known = values.filter(v => v != null);
    if (known.length < 2) return '';
    const n = values.length - 1, wide = Math.max(59, n);
    return line(values.map(v => v ?? 0), top, w, h) + `L${w} ${h}L${(w - n * w / wide).toFixed(1)} ${h}Z`;
  };
  const nice = x => { const p = 10 ** Math.floor(Math.log10(x || 1)); return [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].find(m => m * p >= x) * p; };
  const draw = (figure, paths, label, said) => {
    for (const [name, d] of Object.entries(paths)) attr(figure.querySelector('.' + name), 'd', d);
    text(figure.querySelector('b'), label);
    attr(figure.querySelector('svg'), 'aria-label', said);
  };
  const spark = (svg, trend, bottom, top) => {
    const scale = v => v == null ? null : Math.log(Math.max(v, bottom) / bottom);
    const high = Math.log(top / bottom) || 1;
    attr(svg.firstChild, 'd', line(trend.p99.map(scale), high, 100, 24));
    attr(svg.lastChild, 'd', line(trend.p50.map(scale), high, 100, 24));
  };
  const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const map = one => {
    const canvas = $('map'), box = canvas.getBoundingClientRect();
    if (!box.width) return;
    const px = devicePixelRatio || 1, w = Math.round(box.width * px), h = Math.round(box.height * px);
    if (canvas.width !== w) canvas.width = w;
    if (canvas.height !== h) canvas.height = h;
    const pen = canvas.getContext('2d'), n = one.map.states.length;
    pen.clearRect(0, 0, w, h);
    if (!n) return;
    // The largest square with which all of them fit.
    let cell = Math.min(Math.sqrt(w * h / n), 72 * px);
    while (cell > 1 && Math.floor(w / cell) * Math.floor(h / cell) < n) cell -= Math.max(cell * 0.01, 0.05);
    const columns = Math.max(1, Math.floor(w / cell)), gap = cell > 8 ? Math.max(1, cell * 0.12) : cell > 3 ? 0.5 : 0;
    const colours = { a: css('--active'), w: css('--warming'), d: css('--weightless'), e: css('--ejected'), p: css('--probing') };
    for (let i = 0; i < n; i++) {
      const state = one.map.states[i], x = (i % columns) * cell, y = Math.floor(i / columns) * cell;
      // An endpoint with more than its share of the requests is brighter.
      pen.globalAlpha = state === 'a' ? 0.4 + 0.06 * Math.min(9, +one.map.shares[i] || 0) : 1;
      pen.fillStyle = colours[state] || colours.a;
      const side = cell - gap;
      pen.beginPath();
      if (pen.roundRect && side > 5) pen.roundRect(x, y, side, side, Math.min(side * 0.22, 6 * px)); else pen.rect(x, y, side, side);
      pen.fill();
    }
    attr(canvas, 'aria-label', `Map of ${n} endpoints by state: ` + STATES.map(s => `${one.states[s]} ${s}`).join(', '));
  };

  // --- what it comes to, in words
  const verdict = one => {
    const out = one.states.ejected + one.states.probing;
    const bad = one.registries.find(r => r.error || r.ended || r.state === 'stale');
    if (one.gone) return ['poor', 'the balancer has ended'];
    if (one.breaker && (one.breaker.state === 'open' || one.breaker.state === 'forced_open')) return ['poor', 'the circuit breaker is open'];
    if (one.endpoints === 0) return ['poor', one.resolved ? 'no endpoint is listed' : 'nothing was resolved yet'];
    if (one.usable === 0) return ['poor', 'no endpoint is usable'];
    const parts = [];
    if (out && out === one.endpoints) parts.push('every endpoint is ejected, so all are used');
    else if (out) parts.push(`${whole(out)} of ${whole(one.endpoints)} ejected`);
    if (bad) parts.push(`registry ${bad.state}${bad.silent_s != null ? ' for ' + span(bad.silent_s) : ''}`);
    if (one.discovery_error) parts.push('discovery fails');
    if (one.breaker && one.breaker.state === 'half_open') parts.push('the circuit breaker is half open');
    if (one.split && one.split.trip) parts.push('the split has tripped');
    return parts.length ? ['fair', parts.join(', ')] : ['good', `all ${whole(one.endpoints)} endpoints are listed and usable`.replace('all 1 endpoints are', 'its 1 endpoint is')];
  };

  // --- parts of the page
  const services = () => {
    $('services').hidden = data.services.length < 2;
    list($('services'), data.services, one => one.name, one => {
      const b = make('button', { type: 'button', onclick: () => look({ service: one.name, offset: 0, state: '' }) }, make('i', { 'aria-hidden': 'true' }), make('b'), make('small'));
      return b;
    }, (b, one) => {
      const [tone, words] = verdict(one);
      b.className = tone;
      attr(b, 'aria-current', String(one.name === data.view.service));
      text(b.children[1], one.name);
      text(b.children[2], `${rate(one.rate)} requests/s · ${words}`);
    });
  };
  const figures = one => {
    const shown = [
      ['requests/s', rate(one.rate), ''], ['failures', percent(one.failure_ratio, one.failure_ratio > 0 && one.failure_ratio < .1 ? 2 : 1).replace(' %', ''), '%', one.failure_ratio > 0.01],
      ['latency p50', ...ms(one.latency && one.latency.p50_ms).split(' ')], ['latency p99', ...ms(one.latency && one.latency.p99_ms).split(' ')],
      ['in flight', whole(one.in_flight), ''], ['usable', whole(one.usable), 'of ' + whole(one.endpoints), one.usable === 0],
    ];
    list($('figures'), shown, f => f[0], f => make('div', {}, make('dt', {}, f[0]), make('dd', {}, document.createTextNode(''), make('small'))), (e, [, value, unit, bad]) => {
      e.className = bad ? 'bad' : '';
      const dd = e.lastChild;
      if (dd.firstChild.data !== value) dd.firstChild.data = value;
      text(dd.lastChild, unit || '');
    });
  };
  const hero = one => {
    $('hero').hidden = $('rest').hidden = false;
    text($('service'), one.name);
    const [tone, words] = verdict(one);
    $('verdict').className = 'verdict ' + tone;
    text($('verdict'), words);
    figures(one);
    const t = one.trend, top = nice(Math.max(1, ...t.rate));
    draw($('chart-rate'), { area: under(t.rate, top, 240, 72), line: line(t.rate, top, 240, 72), bad: t.failures.some(f => f > 0) ? line(t.failures, top, 240, 72) : '' },
      `up to ${rate(top)}`, `Requests per second over the last samples, now ${rate(one.rate)}; failures in red`);
    const high = nice(Math.max(0.001, ...t.p99.filter(v => v != null)));
    draw($('chart-latency'), { band: under(t.p99, high, 240, 72), line: line(t.p50, high, 240, 72), high: line(t.p99, high, 240, 72) },
      `up to ${ms(high)}`, `Latency over the last samples, now p50 ${ms(one.latency && one.latency.p50_ms)}, p99 ${ms(one.latency && one.latency.p99_ms)}`);
    map(one);
    list($('legend'), STATES, s => s, s => make('button', { type: 'button', onclick: () => look({ state: view.state === s ? '' : s, offset: 0 }) }, dot(s), make('span')), (b, s) => {
      b.className = one.states[s] ? '' : 'zero';
      attr(b, 'aria-pressed', String(view.state === s));
      text(b.lastChild, `${whole(one.states[s])} ${s}`);
    });
  };
  const facts = pairs => make('dl', { class: 'facts' }, ...pairs.map(([k, v]) => make('div', {}, make('dt', {}, k), make('dd', {}, v))));
  const renew = (e, what, build) => { // Rebuilt only when its data differ, and not while somebody types there.
    const mark = JSON.stringify(what);
    if (e.mark === mark || e.contains(document.activeElement) && document.activeElement.tagName === 'INPUT') return;
    e.mark = mark;
    e.replaceChildren(...[].concat(build()));
  };
  const panels = one => {
    renew($('registries'), one.registries.concat(one.discovery_error || ''), () => one.registries.length || one.discovery_error ? one.registries.map(r => make('div', { class: 'item ' + (r.ended || r.error ? 'poor' : r.state === 'live' ? 'good' : r.state === 'pending' ? 'fair' : 'poor') },
      make('p', { class: 'says' }, dot(r.state === 'live' && !r.error ? 'active' : 'ejected'), make('b', {}, r.ended ? `${r.state}, ended` : r.state), make('span', { class: 'quiet' }, r.service)),
      facts([['instances', whole(r.instances)], [r.silent_s != null ? 'silent for' : 'silent', r.silent_s != null ? span(r.silent_s) : 'no']]),
      r.error ? make('p', { class: 'error' }, r.error) : '')).concat(one.discovery_error ? [make('p', { class: 'error' }, one.discovery_error)] : []) : make('p', { class: 'quiet' }, 'No registry is followed: discovery is not one of this crate.'));
    $('p-breaker').hidden = !one.breaker;
    if (one.breaker) renew($('breaker'), one.breaker, () => {
      const b = one.breaker, tone = { closed: 'good', half_open: 'fair', open: 'poor', forced_open: 'poor', forced_closed: 'fair' }[b.state] || 'idle';
      return make('div', { class: tone }, make('p', { class: 'says' }, make('b', {}, b.state.replace('_', ' ')), b.remaining_s != null ? make('span', { class: 'quiet' }, `for ${span(b.remaining_s)} more`) : ''),
        facts([['calls', whole(b.calls)], ['failed', whole(b.failed)], ['slow', whole(b.slow)], ['refused', short(b.refused)]]));
    });
    $('p-budget').hidden = !one.budget;
    if (one.budget) renew($('budget'), one.budget, () => facts([['available', whole(one.budget.available)], ['withdrawn', short(one.budget.withdrawn)], ['refused', short(one.budget.refused)]]));
    $('p-split').hidden = !one.split;
    if (one.split) renew($('split'), [one.split, !!token, view.service], () => split(one.split));
    $('p-own').hidden = !data.registrations.length;
    renew($('registrations'), data.registrations, () => data.registrations.map(r => make('div', { class: 'item ' + (r.registered ? 'good' : 'poor') },
      make('p', { class: 'says' }, dot(r.registered ? 'active' : 'ejected'), make('b', {}, r.registered ? 'registered' : 'not registered'), make('span', { class: 'quiet' }, `${r.id} of ${r.service}, ${r.address}`)),
      ...(r.registries.length > 1 ? r.registries.map(one => make('p', { class: 'quiet' }, `${one.registered ? 'held' : 'not held'} by ${one.registry}`)) : []),
      r.error ? make('p', { class: 'error' }, r.error) : '')));
    const now = data.at;
    list($('events'), data.events, e => e.number, e => make('li', {}, make('time', { datetime: new Date(e.at).toISOString(), title: new Date(e.at).toLocaleString() }),
      make('b', { class: { ejected: 'poor', removed: 'fair', restored: 'good', added: 'good', probing: 'probing', spared: 'fair', split_tripped: 'poor', discovery_failed: 'poor', discovery_ended: 'poor' }[e.event] || (/open|stale/.test(e.text) ? 'poor' : 'idle') }, e.event.replaceAll('_', ' ')),
      make('span', {}, e.key ? make('em', {}, e.key) : '', ' ', make('i'))), (li, e) => {
      text(li.firstChild, span(Math.max(0, (now - e.at) / 1000)) + ' ago');
      text(li.lastChild.lastChild, [e.text, e.more ? `and ${whole(e.more)} more` : ''].filter(Boolean).join(', '));
    });
    if (!data.events.length && !$('events').firstChild) $('events').append(make('li', { class: 'quiet' }, 'Nothing yet.'));
  };
  const split = s => {
    const rows = s.shares.map((v, i) => [v.version, v.share, 'hue' + i % 5]);
    if (s.rest > 0 || token) rows.push([null, s.rest, 'huer']);
    const inputs = new Map();
    const out = [make('div', { class: 'stack', 'aria-hidden': 'true' }, ...rows.map(([, share, hue]) => { const i = make('i', { class: hue }); i.style.flex = share + ' 0 0'; return i; })),
      make('ul', { class: 'versions' }, ...rows.map(([name, share, hue]) => {
        const label = name == null ? 'all other versions' : name;
        const input = make('input', { type: 'number', min: 0, max: 100, step: 'any', 'aria-label': `Share of ${label} in percent` });
        input.value = +(100 * share).toFixed(3);
        inputs.set(name, input);
        return make('li', { class: hue }, make('span', {}, label), token ? input : make('b', {}, percent(share)));
      }))];
    if (s.trip) out.push(make('p', { class: 'error' }, s.trip));
    if (token) out.push(make('div', { class: 'orders' }, make('button', { type: 'button', class: 'primary', onclick: () => order({ order: 'split', shares: [...inputs].filter(([n]) => n != null).map(([version, i]) => ({ version, share: +i.value })), rest: inputs.has(null) ? +inputs.get(null).value : 0 }, 'shares set') }, 'Set shares')));
    return out;
  };

  // --- the table
  const head = () => {
    for (const [id, name, cls] of COLUMNS) {
      $('head').append(make('th', { scope: 'col', class: cls, 'data-sort': id }, make('button', { type: 'button', onclick: () => look({ sort: id, order: view.sort === id ? (view.order === 'asc' ? 'desc' : 'asc') : (id === 'id' || id === 'state' ? 'asc' : 'desc'), offset: 0 }) }, name)));
      for (const [order, words] of [['asc', 'ascending'], ['desc', 'descending']]) $('sort').append(make('option', { value: `${id} ${order}` }, `${name}, ${words}`));
    }
  };
  const row = e => {
    const tr = make('tr', { class: 'row' }), more = make('tr', { class: 'more' }, make('td', { colspan: COLUMNS.length }));
    const id = keyOf(e);
    const toggle = make('button', { type: 'button', class: 'open', 'aria-expanded': 'false', onclick: () => { open.has(id) ? open.delete(id) : open.add(id); render(); } }, make('span'));
    for (const [name, title, cls] of COLUMNS) tr.append(make('td', { class: cls, 'data-name': title, 'data-col': name }));
    const cell = i => tr.children[i];
    cell(0).append(toggle, make('span', { class: 'under place' }));
    cell(1).append(make('span', { class: 'state' }, '', make('span')), make('span', { class: 'under cause' }));
    cell(3).append(document.createTextNode(''), make('span', { class: 'meter', 'aria-hidden': 'true' }, make('i')));
    const svg = node('svg', { viewBox: '0 0 100 24', preserveAspectRatio: 'none', class: 'spark', 'aria-hidden': 'true' });
    svg.append(node('path', { class: 'hi' }), node('path', { class: 'lo' }));
    cell(7).append(svg, document.createTextNode(''));
    more.hidden = true;
    return { tr, more, toggle, parts: [tr, more] };
  };
  const keyOf = e => JSON.stringify([e.id, e.scope]);
  const fill = (r, e, bottom, top, most) => {
    const cell = i => r.tr.children[i];
    text(r.toggle.firstChild, e.id);
    attr(r.toggle, 'title', e.id);
    text(cell(0).lastChild, [e.address, e.zone].filter(Boolean).join(' · '));
    if (r.state !== e.state) {
      r.state = e.state;
      const s = cell(1).firstChild;
      s.className = 'state ' + e.state;
      s.replaceChildren(dot(e.state), make('span', {}, e.state));
    }
    const cause = cell(1).lastChild;
    cause.hidden = !e.cause;
    text(cause, e.cause || '');
    r.tr.classList.toggle('why', !!e.cause);
    text(cell(2), e.state === 'warming' ? `${e.effective_weight.toFixed(2)} of ${e.weight}` : e.weight);
    const share = percent(e.share);
    if (cell(3).firstChild.data !== share) cell(3).firstChild.data = share;
    cell(3).lastChild.firstChild.style.width = Math.min(100, 50 * e.share * most).toFixed(1) + '%';
    text(cell(4), rate(e.rate));
    text(cell(5), load(e.load));
    text(cell(6), whole(e.in_flight));
    const p = pair(e.latency);
    if (cell(7).lastChild.data !== p) cell(7).lastChild.data = p;
    spark(cell(7).firstChild, e.trend, bottom, top);
    text(cell(8), short(e.requests));
    text(cell(9), short(e.failures));
    cell(9).classList.toggle('bad', e.failures > 0);
    text(cell(10), whole(e.ejections));
    text(cell(11), span(e.age_s));
    const shown = open.has(keyOf(e));
    attr(r.toggle, 'aria-expanded', String(shown));
    r.more.hidden = !shown;
    if (shown) renew(r.more.firstChild, [e.scope, e.tags, e.metadata, e.status, e.address, !!token], () => detail(e));
    const weight = shown && r.weight !== e.weight && r.more.querySelector('.orders input');
    if (weight && weight !== document.activeElement) { weight.value = e.weight; r.weight = e.weight; }
  };
  const detail = e => {
    const pairs = [['address', e.address || 'unknown'], ['id', e.id], ['scope', e.scope], ['zone', e.zone], ['health in the registry', e.status], ['tags', e.tags.join(', ')], ...e.metadata.map(([k, v]) => [k, v])];
    const out = [make('dl', {}, ...pairs.filter(([, v]) => v).map(([k, v]) => make('div', {}, make('dt', {}, k), make('dd', {}, v))))];
    if (token) {
      const weight = make('input', { type: 'number', min: 0, max: 65535, step: 1, 'aria-label': `Weight of ${e.id}` });
      weight.value = e.weight;
      const send = (what, done) => () => order({ id: e.id, scope: e.scope, ...what }, `${e.id} ${done}`);
      out.push(make('div', { class: 'orders' },
        make('button', { type: 'button', class: 'danger', 'data-order': 'eject', onclick: send({ order: 'eject' }, 'is ejected') }, 'Eject'),
        make('button', { type: 'button', 'data-order': 'restore', onclick: send({ order: 'restore' }, 'is restored') }, 'Restore'),
        weight,
        make('button', { type: 'button', 'data-order': 'weight', onclick: () => send({ order: 'weight', weight: +weight.value }, `has weight ${weight.value}`)() }, 'Set weight'),
        make('button', { type: 'button', 'data-order': 'reweigh', onclick: send({ order: 'weight', weight: null }, 'has the weight of the registry') }, 'Use the weight of the registry')));
    }
    return out;
  };
  const table = () => {
    const v = data.view, rows = data.endpoints;
    const all = rows.flatMap(e => e.trend.p50.concat(e.trend.p99)).filter(x => x > 0);
    const bottom = Math.min(...all) * 0.8, top = Math.max(...all) * 1.1, most = Math.max(1, v.total); // Half a bar is an equal share.
    list($('rows'), rows, keyOf, row, (r, e) => fill(r, e, all.length ? bottom : 1, all.length ? top : 2, most));
    for (const th of $('head').children) {
      if (th.dataset.sort === v.sort) attr(th, 'aria-sort', v.order === 'asc' ? 'ascending' : 'descending'); else th.removeAttribute('aria-sort');
    }
    $('sort').value = `${v.sort} ${v.order}`;
    $('none').hidden = rows.length > 0;
    const last = v.offset + rows.length;
    text($('count'), v.matching === v.total ? whole(v.total) : `${whole(v.matching)} of ${whole(v.total)}`);
    text($('page'), v.matching ? `${whole(v.offset + 1)} to ${whole(last)} of ${whole(v.matching)}` : '');
    $('back').disabled = v.offset === 0;
    $('next').disabled = last >= v.matching;
    $('back').parentNode.hidden = v.matching <= v.limit && v.offset === 0;
  };

  // --- drawing
  let said = 0;
  const render = () => {
    if (!data) return;
    text($('title'), data.title);
    document.title = data.title;
    $('unlock').hidden = !data.writable;
    text($('unlock'), token ? 'Lock orders' : 'Unlock orders');
    services();
    const one = data.services.find(s => s.name === data.view.service);
    $('notice').hidden = !!one;
    if (!one) { text($('notice'), data.services.length ? 'There is no such service.' : 'No service is shown on this page.'); $('hero').hidden = $('rest').hidden = true; return; }
    hero(one);
    panels(one);
    table();
    const worst = data.services.map(s => verdict(s)[0]).reduce((a, b) => a === 'poor' || b === 'poor' ? 'poor' : a === 'fair' || b === 'fair' ? 'fair' : 'good', 'good');
    const hue = { good: '%2322b58c', fair: '%23e5a23a', poor: '%23e0455a' }[worst];
    attr($('icon'), 'href', `data:image/svg+xml,<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 28 28"><g fill="${hue}"><rect x="3" y="18" width="22" height="6" rx="3"/><rect x="6.5" y="11" width="15" height="6" rx="3"/><rect x="10" y="4" width="8" height="6" rx="3"/></g></svg>`);
    const newest = data.events.find(e => e.event === 'ejected' || e.event === 'breaker' || e.event === 'registry');
    if (newest && newest.number > said) { if (said) text($('news'), `${newest.event} ${newest.key || ''} ${newest.text}`); said = newest.number; }
    if (!said) said = data.events.length ? data.events[0].number : 1;
  };

  // --- talking to the server
  const base = location.pathname.replace(/\/+$/, '') + '/';
  const query = () => {
    const q = new URLSearchParams();
    for (const [k, v] of Object.entries(view)) if (v !== '' && v !== 0) q.set(k, v);
    return q.size ? '?' + q : '';
  };
  const take = next => {
    if (next.version !== 1) { text($('notice'), 'The server has another version than this page: reload it.'); $('notice').hidden = false; return; }
    data = next;
    every = next.interval_ms;
    heard = Date.now();
    view.offset = data.view.offset;
    render();
    pulse();
  };
  const pulse = () => {
    const since = heard ? (Date.now() - heard) / 1000 : 0, dated = heard && since > Math.max(5, 4 * every / 1000);
    attr($('live'), 'data-state', !heard ? 'wait' : dated ? 'off' : 'on');
    text($('live').lastElementChild, !heard ? 'connecting' : dated ? `no data for ${span(since)}` : source ? 'live' : 'polling');
    $('main').classList.toggle('dated', !!dated);
  };
  let ticket = 0;
  const poll = async () => {
    const mine = ticket;
    try {
      const answer = await fetch(base + 'status.json' + query(), { cache: 'no-store' });
      const next = answer.ok && await answer.json();
      if (next && mine === ticket) take(next);
    } catch { /* The live mark shows that nothing comes. */ }
    if (mine === ticket && !source) timer = setTimeout(poll, Math.max(every, 2000));
  };
  const follow = () => {
    stop();
    if (document.hidden) return;
    const mine = ++ticket, stream = new EventSource(base + 'events' + query());
    let first = false;
    source = stream;
    stream.addEventListener('status', e => { first = true; if (mine === ticket) take(JSON.parse(e.data)); });
    const fall = () => {
      if (mine !== ticket || first && stream.readyState !== EventSource.CLOSED) return;
      stream.close();
      source = null;
      poll();
      setTimeout(() => { if (mine === ticket && !document.hidden) follow(); }, 60000);
    };
    stream.addEventListener('error', fall);
    setTimeout(() => { if (!first) fall(); }, 5000);
  };
  const stop = () => { ticket++; clearTimeout(timer); if (source) source.close(); source = null; };
  const look = change => { Object.assign(view, change); follow(); };
  let toastTimer = 0;
  const toast = words => { text($('toast'), words); $('toast').classList.add('shown'); clearTimeout(toastTimer); toastTimer = setTimeout(() => $('toast').classList.remove('shown'), 5000); };
  const order = async (what, done) => {
    try {
      const answer = await fetch(base + 'orders', { method: 'POST', headers: { 'content-type': 'application/json', authorization: 'Bearer ' + token }, body: JSON.stringify({ service: data.view.service, ...what }) });
      const reply = await answer.json().catch(() => ({}));
      if (answer.status === 401) { token = null; render(); }
      toast(answer.ok ? done : `Refused: ${reply.error || answer.status}`);
    } catch (e) { toast('The order was not sent: ' + e.message); }
  };

  // --- controls
  head();
  let typing = 0;
  $('filter').addEventListener('input', () => { clearTimeout(typing); typing = setTimeout(() => look({ filter: $('filter').value, offset: 0 }), 200); });
  $('sort').addEventListener('change', () => { const [sort, order] = $('sort').value.split(' '); look({ sort, order, offset: 0 }); });
  $('back').addEventListener('click', () => look({ offset: Math.max(0, view.offset - data.view.limit) }));
  $('next').addEventListener('click', () => look({ offset: view.offset + data.view.limit }));
  $('unlock').addEventListener('click', () => { if (token) { token = null; render(); } else { $('token').value = ''; $('ask').showModal(); } });
  $('ask-cancel').addEventListener('click', () => $('ask').close());
  $('ask-form').addEventListener('submit', () => { token = $('token').value; $('token').value = ''; render(); });
  document.addEventListener('keydown', e => { if (e.key === '/' && !e.ctrlKey && !e.metaKey && !/INPUT|SELECT|TEXTAREA/.test(e.target.tagName)) { e.preventDefault(); $('filter').focus(); } });
  document.addEventListener('visibilitychange', () => { if (document.hidden) stop(); else follow(); });
  addEventListener('resize', () => { if (data) { const one = data.services.find(s => s.name === data.view.service); if (one) map(one); } });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', render);
  setInterval(pulse, 1000);
  follow();
})();
