"use strict";
// Starts the page from a file: the content security policy forbids scripts in pages. No validator is asked outside.
SwaggerUIBundle({ url: "/openapi.json", dom_id: "#swagger-ui", validatorUrl: null, deepLinking: true });
