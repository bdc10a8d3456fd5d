// Swagger's own start, as a file: the page allows no script inside of it.
SwaggerUIBundle({ url: "/openapi.json", dom_id: "#swagger", deepLinking: true, tryItOutEnabled: true });
