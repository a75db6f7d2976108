// The unmodified openai SDK for Node: `node sdk.mjs WHAT`. One JSON object on stdout says what came of it.
// OPENAI_BASE_URL and OPENAI_API_KEY are the SDK's own variables.
import OpenAI from "openai";

const client = new OpenAI({ maxRetries: Number(process.env.MAX_RETRIES ?? 0), timeout: 30_000 });
const ask = { model: "gpt-4o", messages: [{ role: "user", content: "say hello" }] };
const slow = { headers: { "x-sim-tokens": "40", "x-sim-delay-ms": "2" } };

const actions = {
  async plain() {
    const { data, response } = await client.chat.completions.create(ask).withResponse();
    return { text: data.choices[0].message.content, node: response.headers.get("x-fastgw-upstream") };
  },

  async stream() {
    const result = { text: "", chunks: 0, usage: null };
    const options = { ...ask, stream: true, stream_options: { include_usage: true } };
    for await (const chunk of await client.chat.completions.create(options)) {
      result.chunks += 1;
      result.text += chunk.choices[0]?.delta?.content ?? "";
      result.usage = chunk.usage ?? result.usage;
    }
    return result;
  },

  async broken() {
    const result = { text: "", error: null, message: null };
    try {
      for await (const chunk of await client.chat.completions.create({ ...ask, stream: true }, slow)) {
        result.text += chunk.choices[0]?.delta?.content ?? "";
      }
    } catch (error) {
      result.error = error instanceof OpenAI.APIError ? "APIError" : error.constructor.name;
      result.message = error.message;
    }
    return result;
  },

  async many() {
    const texts = Array.from({ length: 40 }, (_, number) => `mark-${number}`);
    const answers = await Promise.all(
      texts.map((content) => client.chat.completions.create({ ...ask, messages: [{ role: "user", content }] })),
    );
    return { right: answers.every((answer, at) => answer.choices[0].message.content === `You said: ${texts[at]}`) };
  },

  async rest() {
    const models = await client.models.list();
    const vectors = await client.embeddings.create({ model: "text-embedding-3-small", input: ["one", "two"] });
    const response = await client.responses.create({ model: "gpt-4o", input: "say hello" });
    return {
      models: models.data.map((model) => model.id),
      vectors: vectors.data.map((vector) => vector.embedding.length),
      said: response.output_text,
    };
  },

  async errors() {
    const kinds = [];
    const wrong = [
      () => client.chat.completions.create({ ...ask, messages: [{ role: "nobody", content: "x" }] }),
      () => client.post("/no/such/path", { body: {} }),
    ];
    for (const call of wrong) {
      try {
        await call();
        kinds.push("none");
      } catch (error) {
        kinds.push(error.constructor.name);
      }
    }
    return { kinds };
  },

  async failing() {
    try {
      await client.chat.completions.create(ask);
      return { error: null };
    } catch (error) {
      return { error: error.constructor.name, status: error.status, after: error.headers.get("retry-after") };
    }
  },
};

console.log(JSON.stringify(await actions[process.argv[2]]()));
