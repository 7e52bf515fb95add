//! A small domain that most tests need: a database with customers and products that customers own.

use serde_json::{Value, json};

use crate::client::Client;

/// A client on a host whose database `shop` has the classes `Customer` and `Product`.
#[derive(Debug, Clone)]
pub struct Shop {
    pub client: Client,
}

/// The classes of the shop.
pub fn classes() -> [Value; 2] {
    let property = |name: &str, of: &str, required: bool| {
        let (kind, label) = (of, name);
        json!({"name": name, "type": kind, "label": label, "required": required})
    };
    let customer = json!({
        "id": "Customer", "label": "Customer", "description": "who buys", "parent": null, "abstract": false,
        "properties": [property("customer_id", "string", true), property("name", "string", true)],
        "relationships": [],
    });
    let mut price = property("price", "double", false);
    price["constraints"] = json!({"min": 0});
    let product = json!({
        "id": "Product", "label": "Product", "description": "what is sold", "parent": null, "abstract": false,
        "properties": [property("product_id", "string", true), property("name", "string", true), price],
        "relationships": [
            {"predicate": "owned_by", "target": "Customer", "label": "Owned By", "cardinality": "n:1", "inverse": null},
        ],
    });
    [customer, product]
}

impl Shop {
    /// Creates the database and its classes.
    pub async fn create(client: Client) -> anyhow::Result<Shop> {
        let body = json!({"name": "shop", "description": "for tests"});
        client.completed(client.post("/api/v1/database/create", &body).await?).await?;
        let mut seen = Value::Null;
        for class in classes() {
            seen = client.completed(client.post("/api/v1/database/shop/ontology", &class).await?).await?;
        }
        // Completed is not projected: whoever reads without a token finds the database and its classes from here on.
        let token = seen["consistency_token"].as_str().unwrap_or_default();
        let reader = client.with("consistency-token", token).with("prefer", "wait=60");
        reader.get("/api/v1/database/exists/shop").await?.expect(200)?;
        reader.get("/api/v1/database/shop/ontology").await?.expect(200)?;
        Ok(Shop { client })
    }

    /// Creates an instance; gives its terminal status, which must be COMPLETED.
    pub async fn put(&self, class: &str, data: Value) -> anyhow::Result<Value> {
        let path = format!("/api/v1/instances/shop/async/{class}/create");
        self.client.completed(self.client.post(&path, &json!({"data": data})).await?).await
    }

    /// Reads an instance as of a status or a 202.
    pub async fn read(&self, class: &str, id: &str, seen: &Value) -> anyhow::Result<Value> {
        let token = seen["consistency_token"].as_str().unwrap_or_default();
        let reader = self.client.with("consistency-token", token).with("prefer", "wait=60");
        reader.get(&format!("/api/v1/instances/shop/{class}/{id}")).await?.expect(200)
    }
}
