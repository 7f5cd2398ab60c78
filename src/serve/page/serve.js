// The server's page: asks /v1/completions or /v1/chat/completions for a stream with pimoe_trace_experts, and draws each token's experts.
'use strict';

const byId = (id) => document.getElementById(id);
let facts = {moe_layers: 0, experts: 0};
let tokens = [];   // of the answer: {element, name, layers}
let counts = [];   // [layer][expert] tokens of the answer that it served
let traced = 0;    // tokens that had experts
let request = null;

function headers() {
  const key = byId('key').value.trim();
  return key ? {'Authorization': `Bearer ${key}`} : {};
}

function tell(trouble) {
  byId('trouble').textContent = trouble;
  byId('trouble').hidden = !trouble;
}

async function problemOf(response) {
  try {
    return `${response.status}: ${(await response.json()).error.message}`;
  } catch {
    return `the server answered ${response.status}`;
  }
}

// Without a key, where one is needed, this fails quietly: it is tried again with the first question.
async function readModel() {
  const response = await fetch('/v1/models', {headers: headers()});
  if (!response.ok) return;
  const model = (await response.json()).data[0];
  facts = model.pimoe;
  byId('model').textContent = model.id;
  const experts = facts.moe_layers ? `, ${facts.moe_layers} layers of ${facts.experts} experts, ${facts.choices} for each token` : '';
  byId('facts').textContent = `step ${facts.step}, sees ${model.max_model_len} tokens${experts}`;
  byId('kind-label').hidden = !facts.chat;
  if (!facts.chat) byId('kind').value = 'completion';
}

function drawGrid() {
  const grid = byId('grid');
  grid.replaceChildren();
  for (let layer = 0; layer < counts.length; ++layer) {
    const row = document.createElement('div');
    row.className = 'layer';
    const name = document.createElement('b');
    name.textContent = `layer ${layer}`;
    row.append(name);
    for (let expert = 0; expert < counts[layer].length; ++expert) {
      const square = document.createElement('i');
      square.dataset.expert = expert;
      row.append(square);
    }
    grid.append(row);
  }
}

function lightUp(token) {
  for (const each of tokens) each.element.classList.toggle('chosen', each === token);
  byId('experts').hidden = false;
  byId('token').textContent = token.name;
  const rows = byId('grid').children;
  for (let layer = 0; layer < counts.length; ++layer) {
    const squares = rows[layer].querySelectorAll('i');
    squares.forEach((square, expert) => {
      const share = traced ? counts[layer][expert] / traced : 0;
      square.style.background = `rgba(var(--cool), ${(0.85 * share).toFixed(3)})`;
      square.classList.toggle('lit', token.layers[layer].includes(expert));
      square.title = `layer ${layer}, expert ${expert}: ${(100 * share).toFixed(0)} % of the answer's tokens`;
    });
  }
}

function addToken(text, experts) {
  const element = document.createElement('span');
  element.textContent = text;
  byId('answer').append(element);
  if (!experts || !experts.layers.length) return;
  const token = {element, name: experts.token, layers: experts.layers};
  while (counts.length < token.layers.length) counts.push(new Array(Math.max(facts.experts, 1)).fill(0));
  if (byId('grid').children.length !== counts.length) drawGrid();
  token.layers.forEach((chosen, layer) => { for (const expert of chosen) counts[layer][expert] += 1; });
  traced += 1;
  element.addEventListener('pointerenter', () => lightUp(token));
  tokens.push(token);
  lightUp(token);
}

function hear(chunk) {
  if (chunk.error) return tell(chunk.error.message);
  for (const choice of chunk.choices) {
    const text = choice.text ?? choice.delta.content ?? '';
    const experts = choice.pimoe_experts ?? [];
    // Several tokens of one chunk: their text belongs to the last, which completed it.
    experts.slice(0, -1).forEach((each) => addToken('', each));
    if (text || experts.length) addToken(text, experts.at(-1));
  }
}

// Calls `event` with the data of each server-sent event of a response.
async function readEvents(response, event) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    const lines = (rest + value).split('\n');
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith('data: ') && line !== 'data: [DONE]') event(JSON.parse(line.slice(6)));
    }
  }
}

async function ask() {
  tell('');
  tokens = [];
  counts = [];
  traced = 0;
  byId('answer').replaceChildren();
  byId('grid').replaceChildren();
  byId('experts').hidden = true;
  byId('speed').textContent = '';
  if (!byId('model').textContent) await readModel();
  const isChat = byId('kind').value === 'chat';
  const prompt = byId('prompt').value;
  const body = {
    ...(isChat ? {messages: [{role: 'user', content: prompt}]} : {prompt}),
    max_tokens: Number(byId('tokens').value),
    temperature: Number(byId('temperature').value),
    stream: true,
    stream_options: {include_usage: true},
    pimoe_trace_experts: facts.moe_layers > 0,
  };
  request = new AbortController();
  const begun = performance.now();
  let reason = '';
  const response = await fetch(isChat ? '/v1/chat/completions' : '/v1/completions',
    {method: 'POST', headers: {'Content-Type': 'application/json', ...headers()}, body: JSON.stringify(body), signal: request.signal});
  if (!response.ok) return tell(await problemOf(response));
  await readEvents(response, (chunk) => {
    hear(chunk);
    if (chunk.choices?.[0]?.finish_reason) reason = chunk.choices[0].finish_reason;
    if (!chunk.usage) return;
    const seconds = (performance.now() - begun) / 1000;
    const made = chunk.usage.completion_tokens;
    byId('speed').textContent = `${made} tokens in ${seconds.toFixed(1)} s, ${(made / seconds).toFixed(1)} tok/s, ended by ${reason}`;
  });
}

byId('form').addEventListener('submit', async (submitted) => {
  submitted.preventDefault();
  byId('go').disabled = true;
  byId('stop').disabled = false;
  try {
    await ask();
  } catch (error) {
    if (error.name !== 'AbortError') tell(error.message);
  } finally {
    byId('go').disabled = false;
    byId('stop').disabled = true;
  }
});
byId('stop').addEventListener('click', () => request?.abort());
byId('prompt').addEventListener('keydown', (key) => {
  if (key.key === 'Enter' && (key.ctrlKey || key.metaKey)) byId('form').requestSubmit();
});
byId('key').addEventListener('change', () => readModel().catch((error) => tell(error.message)));
readModel().catch((error) => tell(error.message));
