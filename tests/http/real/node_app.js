// The application of the real servers on Node's own http: node_app.js PORT
const http = require("http");
const ETAG = '"hello"';

function answer(response, status, fields, ...body) {
  response.writeHead(status, fields);
  for (const piece of body) response.write(piece);
  response.end();
}

http
  .createServer((request, response) => {
    switch (request.url) {
      case "/hello":
        if (request.headers["if-none-match"] === ETAG) return answer(response, 304, { ETag: ETAG });
        return answer(response, 200, { ETag: ETAG, "Content-Length": 5 }, ...(request.method === "HEAD" ? [] : ["hello"]));
      case "/chunked/":
        return answer(response, 200, {}, "one", "two".repeat(10000), "three");
      case "/none":
        return answer(response, 204, {});
      case "/moved":
        return answer(response, 302, { Location: "/hello", "Content-Length": 0 });
      case "/limited":
        return answer(response, 413, { "Content-Length": 0 });
      case "/size": {
        let size = 0;
        request.on("data", (piece) => (size += piece.length));
        request.on("end", () => answer(response, 200, { "Content-Length": `${size}`.length }, `${size}`));
      }
    }
  })
  .listen(Number(process.argv[2]), "127.0.0.1");
