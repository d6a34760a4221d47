// What the reference writes in JavaScript, by the official SDK: `node client.mjs PACKAGE`, with BASE_URL in the environment.
// Reads a line of JSON for each thing to do ({"do": NAME, "key": KEY}) and writes one with what came of it.
import http from 'node:http';
import readline from 'node:readline';

const { default: OpenAI, toFile } = await import(process.argv[2]);
const isOld = process.argv[2] !== 'openai';
const few = { logit_bias: { 2: 40 }, max_tokens: 8 };
const says = { grammar: 'root ::= [a-z]+', ignore_eos: true, max_tokens: 8 };
const calls = { logit_bias: { 129: 60, 2: 80 }, max_tokens: 300 };
const weather = {
  name: 'get_current_weather',
  description: 'Get the current weather in a given location',
  parameters: {
    type: 'object',
    properties: { unit: { type: 'string', enum: ['celsius', 'fahrenheit'] } },
    required: ['unit'],
  },
};

const things = {
  // Core APIs, lines 503-516 and 522-531
  async chat(openai) {
    const completion = await openai.chat.completions.create({
      model: 'gpt-4',
      messages: [{role: 'user', content: 'Hello'}],
      ...says,
    });
    return completion;
  },

  // Core APIs, lines 189-199
  async stream(openai) {
    const stream = await openai.chat.completions.create({
      model: 'gpt-4',
      messages: [{role: 'user', content: 'Tell me a story'}],
      stream: true,
      stream_options: { include_usage: true },
      ...says,
    });

    let said = '';
    let last;
    for await (const chunk of stream) {
      said += chunk.choices[0]?.delta?.content || '';
      last = chunk;
    }
    return { said, last };
  },

  async abort(openai) {
    const stream = await openai.chat.completions.create({
      model: 'endless',
      messages: [{role: 'user', content: 'Tell me a story'}],
      stream: true,
    });
    let chunks = 0;
    for await (const _ of stream) {
      chunks += 1;
      if (chunks === 3) stream.controller.abort();
    }
    return { chunks };
  },

  // Core APIs, lines 214-243
  async functions(openai) {
    const completion = await openai.chat.completions.create({
      model: 'gpt-4-tools',
      messages: [{
        role: 'user',
        content: 'What is the weather like in Boston?'
      }],
      functions: [
        {
          name: 'get_current_weather',
          description: 'Get the current weather in a given location',
          parameters: {
            type: 'object',
            properties: {
              location: {
                type: 'string',
                description: 'The city and state, e.g. San Francisco, CA'
              },
              unit: {
                type: 'string',
                enum: ['celsius', 'fahrenheit']
              }
            },
            required: ['location']
          }
        }
      ],
      function_call: 'auto'
    });
    return completion;
  },

  async tools(openai) {
    const completion = await openai.chat.completions.create({
      model: 'gpt-4',
      messages: [{ role: 'user', content: 'What is the weather like in Boston?' }],
      tools: [{ type: 'function', function: weather }],
      tool_choice: 'required',
      ...calls,
    });
    const [call] = completion.choices[0].message.tool_calls;
    const next = await openai.chat.completions.create({
      model: 'gpt-4',
      messages: [
        { role: 'user', content: 'What is the weather like in Boston?' },
        completion.choices[0].message,
        { role: 'tool', tool_call_id: call.id, content: '21' },
      ],
      ...few,
    });
    return { completion, next };
  },

  async tools_streamed(openai) {
    const stream = await openai.chat.completions.create({
      model: 'gpt-4',
      messages: [{ role: 'user', content: 'What is the weather like in Boston?' }],
      tools: [{ type: 'function', function: weather }],
      tool_choice: 'required',
      stream: true,
      ...calls,
    });
    let name = '';
    let given = '';
    for await (const chunk of stream) {
      for (const call of chunk.choices[0]?.delta?.tool_calls || []) {
        name += call.function.name || '';
        given += call.function.arguments || '';
      }
    }
    return { name, given };
  },

  // Core APIs, lines 249-270
  async vision(openai) {
    const completion = await openai.chat.completions.create({
      model: 'gpt-4-vision-preview',
      messages: [
        {
          role: 'user',
          content: [
            {
              type: 'text',
              text: 'What is in this image?'
            },
            {
              type: 'image_url',
              image_url: {
                url: 'https://example.com/image.jpg'
              }
            }
          ]
        }
      ],
      max_tokens: 1000
    });
    return completion;
  },

  // Core APIs, lines 279-291
  async routing(openai) {
    const gptResponse = await openai.chat.completions.create({
      model: 'gpt-4',
      messages: [{role: 'user', content: 'Hello'}],
      ...few,
    });
    const claudeResponse = await openai.chat.completions.create({
      model: 'claude-3-sonnet',
      messages: [{role: 'user', content: 'Hello'}]
    });
    return [gptResponse, claudeResponse];
  },

  // Core APIs, lines 335-352
  async error(openai) {
    const lines = [];
    const told = {};
    const console = { log: (...words) => lines.push(words.join(' ')) };
    try {
      const completion = await openai.chat.completions.create({
        model: 'gpt-4',
        messages: [{role: 'user', content: 'Hello'}],
        ...few,
      });
    } catch (error) {
      if (error.status === 429) {
        // Handle rate limiting
        console.log('Rate limited, retrying in', error.headers['retry-after'], 'seconds');
      } else if (error.status === 401) {
        // Handle authentication error
        console.log('Invalid API key');
      } else {
        // Handle other errors
        console.log('API error:', error.message);
      }
      Object.assign(told, seen(error));
    }
    return { lines, ...told };
  },

  async unknown(openai) {
    return await openai.chat.completions
      .create({ model: 'invalid-model', messages: [{role: 'user', content: 'Hello'}] })
      .catch(seen);
  },

  // Core APIs, lines 560-581
  async batch(openai) {
    async function processBatch(prompts) {
      const promises = prompts.map(prompt =>
        openai.chat.completions.create({
          model: 'gpt-3.5-turbo',
          messages: [{role: 'user', content: prompt}],
          ...few,
        })
      );
      const results = await Promise.allSettled(promises);
      return results.map((result, index) => ({
        prompt: prompts[index],
        success: result.status === 'fulfilled',
      }));
    }
    return await processBatch(['one', 'two', 'three']);
  },

  // Core APIs, lines 633-658
  async metadata(openai) {
    const id = 'req-' + Date.now();
    const response = await openai.chat.completions.create({
      model: 'gpt-4',
      messages: [{role: 'user', content: 'Hello'}],
      ...few,
    }, {
      headers: {
        'X-Request-ID': id
      }
    });
    const metadata = response.conduit_metadata;
    return {
      id,
      requestId: metadata?.request_id,
      model: response.model,
      provider: metadata?.provider,
      tokensUsed: response.usage?.total_tokens,
      cost: metadata?.cost,
      processingTime: metadata?.processing_time_ms
    };
  },

  // Core APIs, lines 684-693
  async anthropic(openai) {
    const response = await openai.chat.completions.create({
      model: 'claude-3-sonnet',
      messages: [{role: 'user', content: 'Hello'}],
      // Anthropic-specific parameters
      anthropic_version: '2023-06-01',
      stop_sequences: ['\n\nHuman:']
    });
    return response;
  },

  async embeddings(openai) {
    const input = ['The quick brown fox jumps over the lazy dog.', 'Machine learning is a subset of artificial intelligence.'];
    const model = 'text-embedding-3-large';
    const plain = await openai.embeddings.create({ model, input, encoding_format: 'float' });
    const coded = await openai.embeddings.create({ model, input }); // asks for base64, and decodes it
    const apart = plain.data[1].embedding.map((value, at) => Math.abs(value - coded.data[1].embedding[at]));
    return { plain, apart: Math.max(...apart) };
  },

  // Core APIs, lines 59 and 60
  async sound(openai) {
    const speech = await openai.audio.speech.create({ model: 'tts-1', voice: 'alloy', input: 'one two three' });
    const file = await toFile(Buffer.from(await speech.arrayBuffer()), 'said.mp3');
    return await openai.audio.transcriptions.create({ model: 'whisper-1', file, language: 'en' });
  },

  async models(openai) {
    const ids = [];
    for await (const model of openai.models.list()) ids.push(model.id);
    return { ids, one: await openai.models.retrieve('gpt-4') };
  },
};

function seen(error) {
  const { status, type, param, code, message } = error;
  const headers = isOld ? error.headers : Object.fromEntries(error.headers.entries());
  return { class: error.constructor.name, status, type, param, code, message, after: headers['retry-after'] };
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  const pooled = isOld ? { httpAgent: new http.Agent({ keepAlive: true, maxSockets: 20 }) } : {};
  const openai = new OpenAI({ apiKey: asked.key, baseURL: process.env.BASE_URL, maxRetries: 0, ...pooled });
  let told;
  try {
    told = { told: await things[asked.do](openai) };
  } catch (error) {
    told = { failed: String(error.stack) };
  }
  process.stdout.write(JSON.stringify(told) + '\n');
}
process.exit(0);
